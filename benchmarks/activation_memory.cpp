// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// How much less memory does a step need, and how much longer a sequence fits the same memory? Runs
// real training steps of a LLaMA with plans that keep a fixed number of branches and reports the
// peak: all that a step allocates beyond weights, gradients and optimizer. Modes: all weights,
// adapters (LoRA), adapters over 4-bit weights (QLoRA). A table by arithmetic for LLaMA-2 follows.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <dropbp/dropbp.hpp>
#include <dropbp/ops/adamw.hpp>

#include <fmt/ranges.h>

#include "benchmark.hpp"
#include "llama/model/model.hpp"
#include "modes.hpp"

namespace {

using llama::Index;

struct Settings {
  llama::LlamaConfig shape{
      .hidden = 128, .intermediate = 344, .layers = 32, .heads = 4, .kv_heads = 4};
  Index sequence = 256;
  double budget_mib = 0.0;
  std::vector<std::string> modes = {"full", "lora", "qlora"};
  std::vector<double> drop_rates = {0.0, 0.5, 0.75, 0.875};
};

struct Peak {
  std::size_t
      saved = 0,
      all = 0;  // bytes: what branches save for their backward pass; that and all transient memory
};

class Trainer {
 public:
  Trainer(const Settings& settings, Index longest, std::string_view mode)
      : model_(settings.shape, longest, {.lora = bench::lora_of(mode)}),
        optimizer_(model_.parameters(), {.learning_rate = 1e-5}) {
    model_.initialize(1);
    model_.initialize_adapters(1);
  }

  llama::LlamaModel<float>& model() noexcept { return model_; }

  // The peak of one real step. The plan is the same in every run of a rate, and keeps the rate's
  // share of attention branches and of MLPs.
  Peak step(double drop_rate, Index sequence) {
    llama::Batch batch{.shape = {1, sequence}, .inputs = {}, .labels = {}};
    for (Index i = 0; i < sequence; ++i) {
      batch.inputs.push_back(static_cast<std::int32_t>((i * 7 + i * i * 3 + 1) % 256));
      batch.labels.push_back(static_cast<std::int32_t>((i * 5 + 2) % 256));
    }
    // The sampling bounds the number of kept branches in each of the two groups by the rate's
    // share.
    dropbp::DropOptions options{
        .drop_rate = drop_rate, .seed = 1, .trainable_below = model_.trainable_below()};
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
    // Both pools peak at the start of the backward pass. If they do not, the sum is slightly above
    // the memory in use at any one time.
    const std::size_t saved = model_.saved_memory().peak_bytes();
    return {saved, saved + model_.workspace().peak_bytes()};
  }

 private:
  llama::LlamaModel<float> model_;
  dropbp::ops::AdamW<float> optimizer_;
  std::uint64_t steps_ = 0;
};

// The longest sequence, in steps of 8 tokens, whose step stays within the budget. Memory is linear
// in the length: two lengths give an estimate, and real steps correct it.
Index longest_sequence(Trainer& trainer, double drop_rate, double budget, Index limit) {
  constexpr Index grain = 8;
  const auto fits = [&](Index length) {
    return static_cast<double>(trainer.step(drop_rate, length).all) <= budget;
  };
  const double one = static_cast<double>(trainer.step(drop_rate, 128).all),
               two = static_cast<double>(trainer.step(drop_rate, 256).all);
  const double per_token = (two - one) / 128.0;
  Index length = grain * static_cast<Index>((budget - (one - 128.0 * per_token)) / per_token /
                                            static_cast<double>(grain));
  length = std::clamp(length, grain, limit);
  while (length > grain && !fits(length)) length -= grain;
  while (length + grain <= limit && fits(length + grain)) length += grain;
  return length;
}

// Elements per token: what all branches save, and what a step needs besides at any drop rate.
struct PerToken {
  double branches = 0.0, rest = 0.0;

  double at(double drop_rate) const { return (1.0 - drop_rate) * branches + rest; }
};

struct Shape {
  std::string_view name;
  double layers, hidden, intermediate, heads, kv_heads, vocabulary;

  double kv() const { return hidden / heads * kv_heads; }
  double attention_weights() const { return 2 * hidden * hidden + 2 * hidden * kv(); }
  double mlp_weights() const { return 3 * hidden * intermediate; }
};

Shape shape_of(const llama::LlamaConfig& c) {
  const auto d = [](Index n) { return static_cast<double>(n); };
  return {"",         d(c.layers),   d(c.hidden),    d(c.intermediate),
          d(c.heads), d(c.kv_heads), d(c.vocabulary)};
}

// What this library keeps (docs/memory.md): the saved tensors, the residual stream and its
// gradient, and the largest transient of a branch. That is the MLP's backward pass (gradients of
// gate and up, the activation) or the attention's (gradients of q, k, v and of its output). `wide`
// is the size of a float in elements: rstd and lse stay float where the elements are narrower.
PerToken library_needs(const Shape& m, double rank, double wide) {
  const double attention = 3 * m.hidden + 2 * m.kv() + wide * (1 + m.heads) + 4 * rank;
  const double mlp = m.hidden + wide + 2 * m.intermediate + 3 * rank;
  const double transient =
      std::max(3 * m.intermediate, 2 * m.hidden + 2 * m.kv() + m.hidden) + m.hidden;
  return {m.layers * (attention + mlp), 2 * m.hidden + transient};
}

// The smallest known requirement: values that take one pass over a row are recomputed, results of
// products are saved, gradients overwrite the values they belong to. The backward pass of attention
// accumulates its gradient in float.
PerToken least_needs(const Shape& m, double rank, double wide) {
  const double attention = 3 * m.hidden + 2 * m.kv() + wide * (1 + m.heads) + 4 * rank;
  const double mlp = m.hidden + wide + 2 * m.intermediate + 3 * rank;
  const double backward = m.hidden + wide * m.hidden + (m.heads > m.kv_heads ? 2 * m.hidden : 0) +
                          m.hidden + 2 * m.kv() + 2 * m.hidden;
  const double transient =
      std::max({backward, 2 * m.intermediate + 2 * m.hidden, 3 * m.hidden + 2 * m.intermediate});
  return {m.layers * (attention + mlp), 2 * m.hidden + transient + 3 * wide};
}

// Assumes bf16 activations, micro-batches of one sequence, and the loss in chunks of 1024 tokens.
void print_accounting(const Settings& settings, bench::Json& json) {
  constexpr double gib = 0x1p30, memory = 80 * gib, rank = 8;
  constexpr Shape shapes[] = {{"LLaMA-2 7B, LoRA", 32, 4096, 11008, 32, 32, 32000},
                              {"LLaMA-2 70B, QLoRA", 80, 8192, 28672, 64, 8, 32000}};
  fmt::print(
      "\nBy arithmetic, not measured: longest sequence on 80 GiB, bf16 activations, adapters of "
      "rank 8\n"
      "                     drop rate   this library's set   / that at 0   least set   / that at "
      "0\n");
  for (const Shape& m : shapes) {
    const bool quantized = m.name.ends_with("QLoRA");
    const double linears = m.layers * (m.attention_weights() + m.mlp_weights());
    const double adapters = m.layers * rank *
                            (4 * m.hidden + 2 * (m.hidden + m.kv()) +
                             2 * (m.hidden + m.intermediate) + m.intermediate + m.hidden);
    // The fixed part: weights (4.127 bits or bf16), embedding and head; adapters with their
    // gradient, float copy and moments; 1 GiB for the libraries; room to expand two of the largest
    // weights; one chunk of logits and its gradient.
    double fixed = linears * (quantized ? 4.127 / 8 : 2.0) + 4 * m.hidden * m.vocabulary +
                   16 * adapters + gib + 6 * 1024 * m.vocabulary;
    if (quantized) fixed += 4 * m.hidden * m.intermediate;
    double first[2] = {};
    for (const double rate : settings.drop_rates) {
      double longest[2];
      const PerToken needs[] = {library_needs(m, rank, 2), least_needs(m, rank, 2)};
      for (int i = 0; i < 2; ++i) {
        longest[i] = std::floor((memory - fixed) / (2 * needs[i].at(rate)));
        if (rate == 0.0) first[i] = longest[i];
      }
      fmt::print("{:<20} {:>9} {:>20.0f} {:>13.2f} {:>11.0f} {:>13.2f}\n", m.name, rate, longest[0],
                 longest[0] / first[0], longest[1], longest[1] / first[1]);
      json.push_back({{"model", m.name},
                      {"drop_rate", rate},
                      {"longest_sequence", longest[0]},
                      {"least_set", longest[1]}});
    }
  }
}

/// Measures one mode at all drop rates. Returns the longest sequences relative to that at rate 0.
std::vector<double> measure(const Settings& settings, std::string_view mode, Index longest,
                            bench::Json& json) {
  Trainer trainer(settings, longest, mode);
  const double budget = settings.budget_mib > 0.0
                            ? settings.budget_mib * 0x1p20
                            : static_cast<double>(trainer.step(0.0, settings.sequence).all);
  const PerToken least = least_needs(shape_of(settings.shape), mode == "full" ? 0 : 8, 1);
  fmt::print(
      "{}, weights of {:.1f} MiB, longest: of real steps within {:.1f} MiB\n"
      "drop rate   saved MiB   peak MiB   / that at 0   longest sequence   / that at 0   predicted "
      "  / "
      "predicted\n",
      mode, static_cast<double>(trainer.model().base_bytes()) / 0x1p20, budget / 0x1p20);
  double first_peak = 0.0, first_length = 0.0;
  std::vector<double> ratios;
  for (const double rate : settings.drop_rates) {
    const Peak peak = trainer.step(rate, settings.sequence);
    const Index length = longest_sequence(trainer, rate, budget, longest);
    const double all = static_cast<double>(peak.all);
    if (rate == 0.0) first_peak = all, first_length = static_cast<double>(length);
    const double ratio = static_cast<double>(length) / first_length,
                 limit = least.at(0.0) / least.at(rate);
    fmt::print("{:>9} {:>11.1f} {:>10.1f} {:>13.3f} {:>18} {:>13.2f} {:>11.2f} {:>13.3f}\n", rate,
               static_cast<double>(peak.saved) / 0x1p20, all / 0x1p20, all / first_peak, length,
               ratio, limit, ratio / limit);
    std::fflush(stdout);
    json.push_back({{"mode", mode},
                    {"drop_rate", rate},
                    {"peak_activation_bytes", peak.all},
                    {"longest_sequence", length},
                    {"ratio", ratio},
                    {"limit", limit},
                    {"saved_bytes", peak.saved}});
    ratios.push_back(ratio);
  }
  fmt::print("\n");
  return ratios;
}

/// Draws one line with its spread, since the modes lie within a percent of each other.
/// `ratios[m][r]` belongs to mode m and drop rate r.
llama::Plot plot_of(const Settings& settings, const std::vector<std::vector<double>>& ratios) {
  llama::Series measured{.name = fmt::format("measured: {}", fmt::join(settings.modes, ", ")),
                         .points = {},
                         .spread = {},
                         .line = llama::Line::none};
  llama::Series predicted{.name = "predicted, least set of activations known",
                          .points = {},
                          .line = llama::Line::dashed};
  for (std::size_t r = 0; r < settings.drop_rates.size(); ++r) {
    std::vector<double> of_modes;
    for (const std::vector<double>& mode : ratios) of_modes.push_back(mode[r]);
    const bench::Spread spread = bench::spread_of(of_modes);
    measured.points.emplace_back(settings.drop_rates[r], spread.median);
    measured.spread.emplace_back(spread.least, spread.most);
  }
  const PerToken least =
      least_needs(shape_of(settings.shape), settings.modes.front() == "full" ? 0 : 8, 1);
  const double highest = *std::ranges::max_element(settings.drop_rates);
  constexpr int intervals = 100;
  for (int i = 0; i <= intervals; ++i) {
    const double rate = highest * i / intervals;
    predicted.points.emplace_back(rate, least.at(0.0) / least.at(rate));
  }
  return {.title = "Longest sequence in the memory of a step at rate 0",
          .x_label = "drop rate",
          .y_label = "length / that at rate 0",
          .series = {std::move(measured), std::move(predicted)},
          .y_from_zero = true};
}

int run(int argc, char** argv) {
  CLI::App app(
      "Measures the memory of a training step at several drop rates, and the longest sequence that "
      "fits the memory of an ordinary step.");
  Settings settings;
  bench::Options common(app, "fewer blocks, shorter sequences");
  const auto size = [&](const char* flag, Index& target, const char* help) {
    app.add_option(flag, target, help)->check(CLI::Range(1, 1 << 20))->capture_default_str();
  };
  size("--layers", settings.shape.layers, "transformer blocks, of two branches each");
  size("--hidden", settings.shape.hidden, "width of the residual stream");
  size("--intermediate", settings.shape.intermediate, "width inside the MLP");
  size("--heads", settings.shape.heads, "attention heads");
  size("--sequence", settings.sequence, "tokens of the steps whose memory is printed");
  app.add_option("--budget", settings.budget_mib,
                 "MiB for the longest sequences; 0: the memory of --sequence at rate 0")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app.add_option("--modes", settings.modes, "what trains")
      ->check(CLI::IsMember({"full", "lora", "qlora"}))
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--drop-rates", settings.drop_rates, "beside 0")
      ->check(CLI::Range(0.0, 0.999))
      ->delimiter(',')
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  if (common.quick) {
    settings.shape = {.hidden = 32, .intermediate = 88, .layers = 8, .heads = 2, .kv_heads = 2};
    settings.sequence = 64;
  }
  common.begin();
  settings.shape.kv_heads = settings.shape.heads;
  const Index longest = 64 * settings.sequence;
  settings.shape.max_positions = std::max(settings.shape.max_positions, longest);
  std::erase(settings.drop_rates, 0.0);
  settings.drop_rates.insert(settings.drop_rates.begin(), 0.0);

  fmt::print(
      "LLaMA of {} blocks, hidden {}, intermediate {}, float, one sequence; memory beyond weights, "
      "gradients and\n"
      "optimizer. Predicted: the same ratio with the least set of activations "
      "(docs/memory.md).\n\n",
      settings.shape.layers, settings.shape.hidden, settings.shape.intermediate);
  bench::Json rows = bench::Json::array(), accounting = bench::Json::array();
  std::vector<std::vector<double>> ratios;
  for (const std::string& mode : settings.modes)
    ratios.push_back(measure(settings, mode, longest, rows));
  print_accounting(settings, accounting);
  common.write(bench::Json{{"rows", rows}, {"accounting", accounting}});
  common.write(plot_of(settings, ratios));
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return bench::main_of("activation_memory", argc, argv, run); }
