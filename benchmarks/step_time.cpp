// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// How much time does a step save, against what it can save? Forward, backward, optimizer and whole step of a LLaMA at
// several drop rates, with the limit that follows from the parts at rate 0, the overhead of the library there, and the
// machine's rate of matrix products.
#include <sys/resource.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include <dropbp/dropbp.hpp>
#include <dropbp/ops/adamw.hpp>
#include <dropbp/ops/product.hpp>
#include <dropbp/ops/product_eigen.hpp>

#include "benchmark.hpp"
#include "instructions.hpp"
#include "modes.hpp"
#include "plain_llama.hpp"

namespace {

using llama::Index;

struct Settings {
  llama::LlamaConfig shape{.hidden = 512, .intermediate = 1376, .layers = 8, .heads = 8, .kv_heads = 8};
  Index sequence = 256, batch = 4;
  int rounds = 9;
  std::string mode = "full";
  std::vector<double> drop_rates = {0.0, 0.5, 0.75, 0.875};

  bool full() const noexcept { return mode == "full"; }
};

struct Times {
  double forward = 0.0, backward = 0.0, branches_backward = 0.0, optimizer = 0.0, branches_optimizer = 0.0, step = 0.0;
};

llama::Batch batch_of(const Settings& settings) {
  llama::Batch batch{.shape = {settings.batch, settings.sequence}, .inputs = {}, .labels = {}};
  const dropbp::CounterRandom random(1, dropbp::RandomStream::user, 0);
  const auto vocabulary = static_cast<std::uint64_t>(settings.shape.vocabulary);
  for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(batch.shape.tokens()); ++i) {
    batch.inputs.push_back(static_cast<std::int32_t>(random(2 * i) % vocabulary));
    batch.labels.push_back(static_cast<std::int32_t>(random(2 * i + 1) % vocabulary));
  }
  return batch;
}

// Clipping, as every fine-tuning does it, and AdamW.
void update(dropbp::ops::AdamW<float>& optimizer) {
  const double norm = dropbp::ops::global_gradient_norm<float>(optimizer.parameters());
  optimizer.step(dropbp::ops::clip_factor(norm, 1.0));
}

constexpr dropbp::ops::AdamWOptions adamw{.learning_rate = 1e-5};

// The trainer with the library.
class Trainer {
 public:
  explicit Trainer(const Settings& settings)
      : model_(settings.shape, settings.sequence, {.adaptation = bench::adaptation_of(settings.mode)}),
        handler_(model_, {.drop_rate = 0.0, .trains_below = model_.trains_below()}),
        optimizer_(model_.parameters(), adamw),
        batch_(batch_of(settings)) {
    model_.initialize(1);
    model_.initialize_adapters(1);
    std::size_t all = 0, of_branches = 0;
    for (const auto* parameter : model_.parameters()) all += parameter->trained ? parameter->size() : 0;
    model_.for_each_layer([&](auto& layer) {
      layer.op().for_each_parameter([&](const auto& parameter) { of_branches += parameter.trained ? parameter.size() : 0; });
    });
    branches_share_ = static_cast<double>(of_branches) / static_cast<double>(all);
  }

  Times step(const dropbp::DropPlan& plan) {
    Times times;
    llama::PassTimes passes;
    times.step = bench::seconds_of([&] {
      model_.clear_gradients();
      handler_.begin_step(plan);
      loss_ = model_.loss_and_gradients(batch_, &passes);
      times.optimizer = bench::seconds_of([&] { update(optimizer_); });
    });
    times.forward = passes.forward;
    times.backward = passes.backward;
    times.branches_backward = passes.branches_backward;
    times.branches_optimizer = branches_share_ * times.optimizer;  // meaningful where all branches are kept
    return times;
  }

  double loss() const noexcept { return loss_; }
  std::size_t allocations() { return model_.saved_memory().allocations() + model_.workspace().allocations(); }
  std::span<const double> flops() const noexcept { return handler_.flops(); }
  // What of the branches' backward FLOPs a plan leaves, without the input gradients that nobody needs.
  double backward_share(const dropbp::DropPlan& plan) const {
    double kept = 0.0, all = 0.0;
    for (std::size_t i = 0; i < plan.size(); ++i) {
      all += model_.backward_flops(i, true);
      if (plan.kept(i)) kept += model_.backward_flops(i, plan.input_gradient_needed(i));
    }
    return kept / all;
  }
  const std::vector<dropbp::ops::Parameter<float>*>& parameters() const noexcept { return model_.parameters(); }

 private:
  llama::LlamaModel<float> model_;
  dropbp::DropBPHandler<llama::LlamaModel<float>> handler_;
  dropbp::ops::AdamW<float> optimizer_;
  llama::Batch batch_;
  double loss_ = 0.0, branches_share_ = 0.0;
};

// The same without it.
class PlainTrainer {
 public:
  explicit PlainTrainer(const Settings& settings, const Trainer& other)
      : model_(settings.shape, settings.sequence), optimizer_(model_.parameters(), adamw), batch_(batch_of(settings)) {
    for (std::size_t i = 0; i < model_.parameters().size(); ++i)
      dropbp::ops::copy<float>(model_.parameters()[i]->value(), other.parameters()[i]->value());
  }

  double step() {
    return bench::seconds_of([&] {
      for (auto* parameter : model_.parameters()) parameter->drop_gradient();
      loss_ = model_.loss_and_gradients(batch_);
      update(optimizer_);
    });
  }

  double loss() const noexcept { return loss_; }

 private:
  bench::PlainLlama model_;
  dropbp::ops::AdamW<float> optimizer_;
  llama::Batch batch_;
  double loss_ = 0.0;
};

// As many attention branches and as many MLPs as the rate leaves, evenly spread, others in every round.
dropbp::DropPlan plan_of(const Settings& settings, double drop_rate, int round) {
  const auto size = static_cast<std::size_t>(settings.shape.layers);
  const auto kept = static_cast<std::size_t>(std::lround((1.0 - drop_rate) * static_cast<double>(size)));
  std::vector<std::uint8_t> dropped(2 * size, 1);
  for (std::size_t i = 0; i < kept; ++i) {
    const std::size_t block = (i * size / kept + static_cast<std::size_t>(round)) % size;
    dropped[2 * block] = dropped[2 * block + 1] = 0;
  }
  return dropbp::DropPlan(dropped, settings.full());
}

double kept_flops_share(const dropbp::DropPlan& plan, std::span<const double> flops) {
  double kept = 0.0, all = 0.0;
  for (std::size_t i = 0; i < plan.size(); ++i) {
    all += flops[i];
    if (plan.kept(i)) kept += flops[i];
  }
  return kept / all;
}

// Multiply-adds count as two; the attention's causal half is counted, not the other. Over frozen weights a backward pass has
// the inputs' gradients alone; the adapters' own products, below a tenth, are not counted.
struct StepFlops {
  double forward, branches_backward, rest;
  double all() const noexcept { return forward + branches_backward + rest; }
};
StepFlops flops_of(const Settings& settings, std::span<const double> branches, double backward_share) {
  const double tokens = static_cast<double>(settings.batch * settings.sequence);
  double forward = 0.0;
  for (const double flops : branches) forward += tokens * flops;
  const double head = 2.0 * tokens * static_cast<double>(settings.shape.hidden * settings.shape.vocabulary);
  return {forward, (settings.full() ? 2.0 : 1.0) * backward_share * forward, (settings.full() ? 3.0 : 2.0) * head};
}

// FLOP/s of C = A B^T with square matrices: the better of the library's product and Eigen's.
class ProductRate {
 public:
  explicit ProductRate(Index size) : size_(size), a_(size, size), b_(size, size), c_(size, size) {
    const dropbp::CounterRandom random(1, dropbp::RandomStream::user, 1);
    for (std::size_t i = 0; i < a_.size(); ++i) {
      const auto bits = random.pair(static_cast<std::uint32_t>(i));
      a_.data()[i] = static_cast<float>(bits[0] >> 40) * 0x1p-24f - 0.5f;
      b_.data()[i] = static_cast<float>(bits[1] >> 40) * 0x1p-24f - 0.5f;
    }
  }
  double measure() {
    const double ours = bench::seconds_of([&] { dropbp::ops::product_abt(c_.view(), a_.view(), b_.view()); });
    const double eigen = bench::seconds_of([&] {
      dropbp::ops::detail::eigen_product<float, false, true>(c_.view(), std::as_const(a_).view(),
                                                             std::as_const(b_).view(), size_, size_, size_,
                                                             dropbp::ops::Accumulate::overwrite);
    });
    return 2.0 * std::pow(static_cast<double>(size_), 3) / std::min(ours, eigen);
  }

 private:
  Index size_;
  dropbp::ops::Matrix<float> a_, b_, c_;
};

// What --count-instructions runs under valgrind: a tiny model, since what the library adds does not depend on the sizes.
int count(const std::string& trainer, int steps) {
  Settings settings;
  settings.shape.hidden = 32;
  settings.shape.intermediate = 48;
  settings.sequence = 8;
  settings.batch = 1;
  dropbp::ops::set_thread_count(1);
  Trainer with(settings);
  PlainTrainer without(settings, with);
  const dropbp::DropPlan plan = plan_of(settings, 0.0, 0);
  for (int step = 0; step < steps; ++step) trainer == "plain" ? void(without.step()) : void(with.step(plan));
  return 0;
}

// One rate alone, for comparisons from outside (versus_pytorch.py): the times and memory of this process.
int run_alone(const Settings& settings, double drop_rate) {
  Trainer trainer(settings);
  std::vector<double> milliseconds;
  for (int round = 0; round <= settings.rounds; ++round) {
    const double seconds = trainer.step(plan_of(settings, drop_rate, round)).step;
    if (round > 0) milliseconds.push_back(1e3 * seconds);
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  fmt::print("{}\n", bench::Json{{"step_ms", milliseconds}, {"peak_rss_bytes", usage.ru_maxrss * 1024}}.dump());
  return 0;
}

int run(int argc, char** argv) {
  CLI::App app(
      "Times training steps of a LLaMA at several drop rates, in turn, and compares what is saved with what can be.");
  Settings settings;
  bench::Options common(app, "a smaller model, 5 rounds");
  const auto size = [&](const char* flag, Index& target, const char* help) {
    app.add_option(flag, target, help)->check(CLI::Range(1, 1 << 20))->capture_default_str();
  };
  size("--layers", settings.shape.layers, "transformer blocks, of two branches each");
  size("--hidden", settings.shape.hidden, "width of the residual stream");
  size("--intermediate", settings.shape.intermediate, "width inside the MLP");
  size("--heads", settings.shape.heads, "attention heads");
  size("--sequence", settings.sequence, "tokens of a sequence");
  size("--batch", settings.batch, "sequences of a step");
  app.add_option("--rounds", settings.rounds, "timings of each, median taken")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  app.add_option("--drop-rates", settings.drop_rates, "rates beside 0; rounded to whole blocks")
      ->check(CLI::Range(0.0, 1.0))
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--mode", settings.mode, "what trains: all weights, adapters of rank 8, or these over 4-bit weights")
      ->check(CLI::IsMember({"full", "lora", "qlora"}))
      ->capture_default_str();
  double only = -1.0;
  app.add_option("--only", only, "no table: steps at this one rate, and their times and the peak memory as JSON")
      ->check(CLI::Range(0.0, 1.0));
  std::string counted;
  int counted_steps = 1;
  app.add_option("--count", counted)->group("");
  app.add_option("--count-steps", counted_steps)->group("");
  CLI11_PARSE(app, argc, argv);
  if (!counted.empty()) return count(counted, counted_steps);
  if (common.quick) {
    settings.shape = {.hidden = 128, .intermediate = 344, .layers = 8, .heads = 4, .kv_heads = 4};
    settings.sequence = 64;
    settings.rounds = 5;
  }
  common.begin();
  settings.shape.kv_heads = settings.shape.heads;
  settings.shape.max_positions = std::max(settings.shape.max_positions, settings.sequence);
  if (only >= 0.0) return run_alone(settings, only);
  std::erase(settings.drop_rates, 0.0);
  settings.drop_rates.insert(settings.drop_rates.begin(), 0.0);

  Trainer trainer(settings);
  std::optional<PlainTrainer> plain;
  if (settings.full()) plain.emplace(settings, trainer);
  ProductRate product(common.quick ? 512 : 2048);
  const std::size_t rates = settings.drop_rates.size();
  std::vector<std::vector<Times>> times(rates);
  std::vector<std::vector<double>> ratios(rates), limits(rates);
  std::vector<double> kept_shares(rates), backward_shares(rates), plain_seconds, overheads, product_rates;

  // Once each beforehand: memory is taken, and what the two trainers compute is the same.
  trainer.step(plan_of(settings, 0.0, 0));
  if (plain) plain->step();
  if (plain && trainer.loss() != plain->loss())
    throw std::runtime_error(
        fmt::format("the trainers with and without the library must have the same loss, but it is {} and {}",
                    trainer.loss(), plain->loss()));
  std::size_t allocations = 0;
  for (int round = -1; round < settings.rounds; ++round) {
    if (round == 0) allocations = trainer.allocations();
    std::vector<Times> of_round(rates);
    double of_plain = 0.0;
    for (std::size_t turn = 0; turn <= rates; ++turn) {
      const std::size_t i = (turn + static_cast<std::size_t>(round + 1)) % (rates + 1);
      if (i == rates) {
        if (plain) of_plain = plain->step();
        continue;
      }
      const dropbp::DropPlan plan = plan_of(settings, settings.drop_rates[i], round + 1);
      of_round[i] = trainer.step(plan);
      kept_shares[i] = kept_flops_share(plan, trainer.flops());
      backward_shares[i] = trainer.backward_share(plan);
    }
    const double rate = product.measure();
    if (round < 0) continue;
    const Times& full = of_round[0];
    for (std::size_t i = 0; i < rates; ++i) {
      const double saved = (1.0 - backward_shares[i] / backward_shares[0]) * full.branches_backward +
                           (1.0 - kept_shares[i]) * full.branches_optimizer;
      times[i].push_back(of_round[i]);
      ratios[i].push_back(of_round[i].step / full.step);
      limits[i].push_back((full.step - saved) / full.step);
    }
    if (plain) overheads.push_back(full.step / of_plain - 1.0), plain_seconds.push_back(of_plain);
    product_rates.push_back(rate);
    fmt::print(stderr, "round {} of {}\n", round + 1, settings.rounds);
  }
  allocations = trainer.allocations() - allocations;

  const StepFlops flops = flops_of(settings, trainer.flops(), backward_shares[0]);
  const auto milliseconds = [](const std::vector<Times>& of, double Times::*part) {
    std::vector<double> values;
    for (const Times& one : of) values.push_back(1e3 * one.*part);
    return bench::spread_of(values);
  };
  fmt::print(
      "LLaMA of {} blocks, hidden {}, intermediate {}, {} heads; {} x {} tokens, float, {}; {} "
      "threads\n"
      "median of {} rounds in turn; ratio: time / that at rate 0 (least to most); limit: from the parts at rate 0;\n"
      "flops limit: by FLOPs alone; efficiency: (1 - ratio) / (1 - limit)\n"
      "drop rate  forward ms  backward ms  optimizer ms   step ms   ratio                    limit  flops limit  "
      "efficiency\n",
      settings.shape.layers, settings.shape.hidden, settings.shape.intermediate, settings.shape.heads, settings.batch,
      settings.sequence,
      settings.full()             ? "all weights trained"
      : settings.mode == "qlora" ? "adapters over 4-bit weights trained"
                                  : "adapters trained",
      dropbp::ops::thread_count(), settings.rounds);
  bench::Json rows = bench::Json::array();
  llama::Plot plot{.title = "Time of a training step",
                   .x_label = "drop rate",
                   .y_label = "time / that at rate 0",
                   .series = {{"measured", {}}, {"limit", {}}}};
  for (std::size_t i = 0; i < rates; ++i) {
    const bench::Spread ratio = bench::spread_of(ratios[i]);
    const double limit = bench::median(limits[i]);
    const double flops_limit = (flops.all() - (1.0 - backward_shares[i] / backward_shares[0]) * flops.branches_backward) / flops.all();
    const double efficiency = limit < 1.0 ? (1.0 - ratio.median) / (1.0 - limit) : 1.0;
    const double forward = milliseconds(times[i], &Times::forward).median,
                 backward = milliseconds(times[i], &Times::backward).median,
                 optimizer = milliseconds(times[i], &Times::optimizer).median,
                 step = milliseconds(times[i], &Times::step).median;
    fmt::print("{:>9} {:>11.1f} {:>12.1f} {:>13.1f} {:>9.1f}   {:.4f} ({:.4f}-{:.4f})  {:>7.4f} {:>12.4f} {:>11.3f}\n",
               1.0 - kept_shares[i], forward, backward, optimizer, step, ratio.median, ratio.least, ratio.most, limit,
               flops_limit, efficiency);
    rows.push_back({{"drop_rate", 1.0 - kept_shares[i]},
                    {"forward_ms", forward},
                    {"backward_ms", backward},
                    {"optimizer_ms", optimizer},
                    {"step_ms", step},
                    {"ratio", ratio.median},
                    {"limit", limit},
                    {"flops_limit", flops_limit},
                    {"efficiency", efficiency}});
    plot.series[0].points.emplace_back(1.0 - kept_shares[i], ratio.median);
    plot.series[1].points.emplace_back(1.0 - kept_shares[i], limit);
  }
  const bench::Spread rate = bench::spread_of(product_rates);
  const double step_seconds = milliseconds(times[0], &Times::step).median / 1e3;
  const double fraction = flops.all() / step_seconds / rate.median;
  const double tokens_per_second = static_cast<double>(settings.batch * settings.sequence) / step_seconds;
  bench::Json json{{"rows", rows}, {"mode", settings.mode}, {"sgemm_fraction", fraction}, {"tokens_per_second", tokens_per_second}};
  if (plain) {
    const bench::Spread overhead = bench::spread_of(overheads);
    fmt::print("without the library: {:.1f} ms; overhead of the library at rate 0: {:.2f} % ({:.2f} % to {:.2f} %)\n",
               1e3 * bench::median(plain_seconds), 100.0 * overhead.median, 100.0 * overhead.least,
               100.0 * overhead.most);
    json["overhead_at_zero"] = overhead.median;
    if (const auto extra = bench::extra_instructions(argv[0])) {
      // A step's own instructions, at least: one for as many multiply-adds as a vector holds.
      const double share = *extra / (flops.all() / (2.0 * static_cast<double>(dropbp::ops::detail::lanes<float>)));
      fmt::print("by instructions: {:.0f} more a step, at most {:.4f} % of a step's\n", *extra, 100.0 * share);
      json["extra_instructions_a_step"] = *extra;
      json["overhead_by_instructions"] = share;
    } else {
      fmt::print("by instructions: not counted, valgrind is not installed\n");
    }
  }
  fmt::print(
      "{:.1f} GFLOP a step at rate 0 in {:.3f} s: {:.1f} GFLOP/s, {:.3f} of the {:.1f} GFLOP/s of a large matrix "
      "product; "
      "{:.0f} tokens/s; allocations in {} rounds: {}\n",
      flops.all() / 1e9, step_seconds, flops.all() / step_seconds / 1e9, fraction, rate.median / 1e9, tokens_per_second,
      settings.rounds, allocations);
  json["sgemm_gflops"] = rate.median / 1e9;
  json["allocations"] = allocations;
  json["threads"] = dropbp::ops::thread_count();
  common.write(json);
  common.write(plot);
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return bench::main_of("step_time", argc, argv, run); }
