// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// How much less memory, and how much longer a sequence in the same memory? Peaks of real training steps of a LLaMA whose
// plans keep a fixed number of branches; memory is everything that a step takes beyond weights, gradients and optimizer.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <dropbp/dropbp.hpp>
#include <dropbp/ops/adamw.hpp>

#include "benchmark.hpp"
#include "llama/model.hpp"

namespace {

using llama::Index;

struct Settings {
  llama::LlamaConfig shape{.hidden = 128, .intermediate = 344, .layers = 32, .heads = 4, .kv_heads = 4};
  Index sequence = 256;
  double budget_mib = 0.0;
  std::vector<double> drop_rates = {0.0, 0.5, 0.75, 0.875};
};

struct Peak {
  std::size_t saved = 0, all = 0;  // bytes: what branches keep for their backward pass; that and everything transient
};

class Trainer {
 public:
  Trainer(const Settings& settings, Index longest)
      : model_(settings.shape, longest), optimizer_(model_.parameters(), {.learning_rate = 1e-5}) {
    model_.initialize(1);
  }

  // Of one real step: the same plan in every run of a rate keeps its share of attention branches and of MLPs.
  Peak step(double drop_rate, Index sequence) {
    llama::Batch batch{.shape = {1, sequence}, .inputs = {}, .labels = {}};
    for (Index i = 0; i < sequence; ++i) {
      batch.inputs.push_back(static_cast<std::int32_t>((i * 7 + i * i * 3 + 1) % 256));
      batch.labels.push_back(static_cast<std::int32_t>((i * 5 + 2) % 256));
    }
    // What is kept never exceeds the rate's share: by count, in each of the two groups.
    dropbp::DropOptions options{.drop_rate = drop_rate, .seed = 1};
    for (std::uint32_t i = 0; i < 2 * static_cast<std::uint32_t>(model_.config().layers); ++i)
      options.groups.push_back(i % 2);
    dropbp::DropBPHandler handler{model_, std::move(options), dropbp::UniformAllocation{},
                                  dropbp::FixedBudgetSampling{}};
    model_.saved_memory().trim();
    model_.workspace().trim();
    model_.saved_memory().reset_peak();
    model_.workspace().reset_peak();
    model_.clear_gradients();
    handler.begin_step(steps_++);
    model_.loss_and_gradients(batch);
    optimizer_.step();
    // Both pools peak at the start of the backward pass, or the sum is a little more than what is alive at once.
    const std::size_t saved = model_.saved_memory().peak_bytes();
    return {saved, saved + model_.workspace().peak_bytes()};
  }

 private:
  llama::LlamaModel<float> model_;
  dropbp::ops::AdamW<float> optimizer_;
  std::uint64_t steps_ = 0;
};

// The longest sequence, in steps of 8 tokens, whose step stays within the budget: memory grows in proportion to it, so a
// guess from two lengths is nearly right, and real steps decide.
Index longest_sequence(Trainer& trainer, double drop_rate, double budget, Index limit) {
  constexpr Index grain = 8;
  const auto fits = [&](Index length) { return static_cast<double>(trainer.step(drop_rate, length).all) <= budget; };
  const double one = static_cast<double>(trainer.step(drop_rate, 128).all),
               two = static_cast<double>(trainer.step(drop_rate, 256).all);
  const double per_token = (two - one) / 128.0;
  Index length =
      grain * static_cast<Index>((budget - (one - 128.0 * per_token)) / per_token / static_cast<double>(grain));
  length = std::clamp(length, grain, limit);
  while (length > grain && !fits(length)) length -= grain;
  while (length + grain <= limit && fits(length + grain)) length += grain;
  return length;
}

int run(int argc, char** argv) {
  CLI::App app(
      "Measures the memory of a training step at several drop rates, and the longest sequence that the memory of an "
      "ordinary step has room for.");
  Settings settings;
  bench::Options common(app, "fewer blocks, shorter sequences");
  const auto size = [&](const char* flag, Index& target, const char* help) {
    app.add_option(flag, target, help)->check(CLI::Range(1, 1 << 20))->capture_default_str();
  };
  size("--layers", settings.shape.layers, "transformer blocks, of two branches each");
  size("--hidden", settings.shape.hidden, "width of the residual stream");
  size("--intermediate", settings.shape.intermediate, "width inside the MLP");
  size("--heads", settings.shape.heads, "attention heads");
  size("--sequence", settings.sequence, "tokens of the steps whose memory is shown");
  app.add_option("--budget", settings.budget_mib, "MiB for the longest sequences; 0 is what --sequence needs at rate 0")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app.add_option("--drop-rates", settings.drop_rates, "beside 0")
      ->check(CLI::Range(0.0, 0.999))
      ->delimiter(',')
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  if (common.quick) {
    settings.shape = {.hidden = 64, .intermediate = 176, .layers = 8, .heads = 2, .kv_heads = 2};
    settings.sequence = 128;
  }
  common.begin();
  settings.shape.kv_heads = settings.shape.heads;
  const Index longest = 64 * settings.sequence;
  settings.shape.max_positions = std::max(settings.shape.max_positions, longest);
  std::erase(settings.drop_rates, 0.0);
  settings.drop_rates.insert(settings.drop_rates.begin(), 0.0);

  Trainer trainer(settings, longest);
  const double budget = settings.budget_mib > 0.0 ? settings.budget_mib * 0x1p20
                                                  : static_cast<double>(trainer.step(0.0, settings.sequence).all);
  fmt::print(
      "LLaMA of {} blocks, hidden {}, intermediate {}, float, all weights trained, one sequence; memory beyond "
      "weights,\n"
      "gradients and optimizer; longest: of real steps within {:.1f} MiB\n"
      "drop rate   saved MiB   peak MiB   / that at 0   longest sequence   / that at 0\n",
      settings.shape.layers, settings.shape.hidden, settings.shape.intermediate, budget / 0x1p20);
  bench::Json rows = bench::Json::array();
  llama::Plot plot{.title = "Memory of a step and longest sequence",
                   .x_label = "drop rate",
                   .y_label = "/ that at rate 0",
                   .series = {{"peak memory", {}}, {"longest sequence", {}}}};
  double first_peak = 0.0, first_length = 0.0;
  for (const double rate : settings.drop_rates) {
    const Peak peak = trainer.step(rate, settings.sequence);
    const Index length = longest_sequence(trainer, rate, budget, longest);
    const double all = static_cast<double>(peak.all);
    if (rate == 0.0) first_peak = all, first_length = static_cast<double>(length);
    const double ratio = static_cast<double>(length) / first_length;
    fmt::print("{:>9} {:>11.1f} {:>10.1f} {:>13.3f} {:>18} {:>13.2f}\n", rate, static_cast<double>(peak.saved) / 0x1p20,
               all / 0x1p20, all / first_peak, length, ratio);
    std::fflush(stdout);
    rows.push_back({{"drop_rate", rate},
                    {"peak_activation_bytes", peak.all},
                    {"longest_sequence", length},
                    {"ratio", ratio},
                    {"saved_bytes", peak.saved}});
    plot.series[0].points.emplace_back(rate, all / first_peak);
    plot.series[1].points.emplace_back(rate, ratio);
  }
  common.write(bench::Json{{"rows", rows}, {"budget_bytes", budget}});
  common.write(plot);
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return bench::main_of("activation_memory", argc, argv, run); }
