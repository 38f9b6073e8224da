// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Times training steps of a LLaMA at several drop rates in turn, and predicts them from the parts
// of a step at rate 0. step_time runs this on the host, cuda_step on a GPU.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <dropbp/dropbp.hpp>
#include <dropbp/kernels/cuda.hpp>
#include <dropbp/ops/adamw.hpp>

#include "benchmark.hpp"
#include "llama/model/model.hpp"
#include "modes.hpp"

namespace bench {

using llama::Index;

/// What is trained, and on how many tokens.
struct Training {
  llama::LlamaConfig shape;
  Index sequence = 256, batch = 4;
  std::string mode = "full";  ///< as for lora_of

  bool full() const noexcept { return mode == "full"; }
  Index tokens() const noexcept { return batch * sequence; }
  std::string text() const {
    return fmt::format(
        "LLaMA of {} blocks, hidden {}, intermediate {}, {} heads; {} x {} tokens; {}",
        shape.layers, shape.hidden, shape.intermediate, shape.heads, batch, sequence,
        full()               ? "all weights trained"
        : mode == "qlora"    ? "adapters over 4-bit weights trained"
        : mode == "lora-fp8" ? "adapters over 8-bit weights trained"
                             : "adapters trained");
  }
};

inline llama::Batch batch_of(const Training& training) {
  llama::Batch batch{.shape = {training.batch, training.sequence}, .inputs = {}, .labels = {}};
  const dropbp::CounterRandom random(1, dropbp::RandomStream::user, 0);
  const auto vocabulary = static_cast<std::uint64_t>(training.shape.vocabulary);
  for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(batch.shape.tokens()); ++i) {
    batch.inputs.push_back(static_cast<std::int32_t>(random(2 * i) % vocabulary));
    batch.labels.push_back(static_cast<std::int32_t>(random(2 * i + 1) % vocabulary));
  }
  return batch;
}

/// AdamW with gradient clipping, as usual in fine-tuning.
template <class T, class Backend>
void update(dropbp::ops::AdamW<T, Backend>& optimizer) {
  const double norm =
      dropbp::ops::global_norm(dropbp::ops::squared_gradient_norms<T>(optimizer.parameters()));
  optimizer.step(dropbp::ops::clip_factor(norm, 1.0));
}

inline constexpr dropbp::ops::AdamWOptions adamw{.learning_rate = 1e-5};

/// Seconds of one step and of its parts.
struct StepTimes {
  double forward = 0.0, backward = 0.0, branches_backward = 0.0, optimizer = 0.0,
         branches_optimizer = 0.0, step = 0.0;
};

/// The trainer that uses the library.
template <class T, class Backend = dropbp::Cpu>
class Trainer {
 public:
  using Model = llama::LlamaModel<T, Backend>;

  /// `fill(model)` sets the weights.
  template <class Fill>
  Trainer(const Training& training, const Fill& fill)
      : model_(training.shape, training.sequence, {.lora = lora_of(training.mode)}),
        handler_(model_, {.drop_rate = 0.0, .trainable_below = model_.trainable_below()}),
        optimizer_(model_.parameters(), adamw),
        batch_(batch_of(training)) {
    fill(model_);
    model_.initialize_adapters(1);
    std::size_t all = 0, of_branches = 0;
    for (const auto* parameter : model_.parameters())
      all += parameter->trained ? parameter->size() : 0;
    model_.for_each_layer([&](auto& layer) {
      layer.op().for_each_parameter(
          [&](const auto& parameter) { of_branches += parameter.trained ? parameter.size() : 0; });
    });
    branches_share_ = static_cast<double>(of_branches) / static_cast<double>(all);
  }

  StepTimes step(const dropbp::DropPlan& plan) {
    StepTimes times;
    llama::PassTimes passes;
    times.step = seconds_of([&] {
      model_.clear_gradients();
      handler_.begin_step(plan);
      loss_ = model_.loss_and_gradients(batch_, &passes);
      times.optimizer = seconds_of([&] {
        update(optimizer_);
        if constexpr (dropbp::DeviceBackend<Backend>)
          dropbp::device_runtime<Backend>::synchronize();
      });
    });
    times.forward = passes.forward;
    times.backward = passes.backward;
    times.branches_backward = passes.branches_backward;
    times.branches_optimizer =
        branches_share_ * times.optimizer;  // meaningful only if all branches are kept
    return times;
  }

  /// Takes effect in the next step.
  void set_batch(llama::Batch batch) { batch_ = std::move(batch); }

  double loss() const noexcept { return loss_; }
  Model& model() noexcept { return model_; }
  std::size_t allocations() {
    return model_.saved_memory().allocations() + model_.workspace().allocations();
  }
  std::span<const double> flops() const noexcept { return handler_.costs(); }
  /// The share of the branches' backward FLOPs that remains under a plan. Input gradients that are
  /// not needed do not count.
  double backward_share(const dropbp::DropPlan& plan) const {
    double kept = 0.0, all = 0.0;
    for (std::size_t i = 0; i < plan.size(); ++i) {
      all += model_.backward_flops(i, true);
      if (plan.kept(i)) kept += model_.backward_flops(i, plan.input_gradient_needed(i));
    }
    return kept / all;
  }

 private:
  Model model_;
  dropbp::DropBPHandler<Model> handler_;
  dropbp::ops::AdamW<T, Backend> optimizer_;
  llama::Batch batch_;
  double loss_ = 0.0, branches_share_ = 0.0;
};

/// Keeps 1 - drop_rate of the attention branches and of the MLPs, evenly spread over the layers.
/// Each round keeps other layers.
inline dropbp::DropPlan plan_of(const Training& training, double drop_rate, int round) {
  const auto size = static_cast<std::size_t>(training.shape.layers);
  const auto kept =
      static_cast<std::size_t>(std::lround((1.0 - drop_rate) * static_cast<double>(size)));
  std::vector<std::uint8_t> dropped(2 * size, 1);
  for (std::size_t i = 0; i < kept; ++i) {
    const std::size_t block = (i * size / kept + static_cast<std::size_t>(round)) % size;
    dropped[2 * block] = dropped[2 * block + 1] = 0;
  }
  return dropbp::DropPlan(dropped, training.full());
}

inline double kept_flops_share(const dropbp::DropPlan& plan, std::span<const double> flops) {
  double kept = 0.0, all = 0.0;
  for (std::size_t i = 0; i < plan.size(); ++i) {
    all += flops[i];
    if (plan.kept(i)) kept += flops[i];
  }
  return kept / all;
}

/// A multiply-add counts as two. Attention counts only its causal half. Over frozen weights a
/// backward pass computes only the inputs' gradients; the adapters' own products, below a tenth, do
/// not count.
struct StepFlops {
  double forward, branches_backward, rest;
  double all() const noexcept { return forward + branches_backward + rest; }
};
inline StepFlops flops_of(const Training& training, std::span<const double> branches,
                          double backward_share) {
  const double tokens = static_cast<double>(training.tokens());
  double forward = 0.0;
  for (const double flops : branches) forward += tokens * flops;
  const double head =
      2.0 * tokens * static_cast<double>(training.shape.hidden * training.shape.vocabulary);
  return {forward, (training.full() ? 2.0 : 1.0) * backward_share * forward,
          (training.full() ? 3.0 : 2.0) * head};
}

/// Times steps at several drop rates, the first of which is 0. Each round runs every rate once and
/// starts with another rate.
template <class T, class Backend>
class RateTable {
 public:
  RateTable(Trainer<T, Backend>& trainer, const Training& training, std::vector<double> drop_rates)
      : trainer_(trainer), training_(training), rows_(drop_rates.size()) {
    for (std::size_t i = 0; i < rows_.size(); ++i) rows_[i].drop_rate = drop_rates[i];
  }

  /// Calls `beside` once, between the rates. Round -1 is not recorded: it allocates the memory that
  /// later rounds reuse.
  template <class Beside>
  void run_round(int number, const Beside& beside) {
    std::vector<StepTimes> times(rows_.size());
    for (std::size_t turn = 0; turn <= rows_.size(); ++turn) {
      const std::size_t i = (turn + static_cast<std::size_t>(number + 1)) % (rows_.size() + 1);
      if (i == rows_.size()) {
        beside();
        continue;
      }
      const dropbp::DropPlan plan = plan_of(training_, rows_[i].drop_rate, number + 1);
      times[i] = trainer_.step(plan);
      rows_[i].kept_share = kept_flops_share(plan, trainer_.flops());
      rows_[i].backward_share = trainer_.backward_share(plan);
    }
    if (number < 0) return;
    const StepTimes& full = times[0];
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      const double saved =
          (1.0 - rows_[i].backward_share / rows_[0].backward_share) * full.branches_backward +
          (1.0 - rows_[i].kept_share) * full.branches_optimizer;
      rows_[i].times.push_back(times[i]);
      rows_[i].ratios.push_back(times[i].step / full.step);
      rows_[i].limits.push_back((full.step - saved) / full.step);
    }
  }

  /// FLOPs of a step at rate 0; seconds() is the median of its time.
  StepFlops flops() const { return flops_of(training_, trainer_.flops(), rows_[0].backward_share); }
  double seconds() const { return 1e-3 * milliseconds(rows_[0], &StepTimes::step); }
  /// Seconds of a step at rate 0 in the last round.
  double last_seconds() const { return rows_[0].times.back().step; }

  /// Prints one line per rate. Returns the table for --json, and a plot.
  std::pair<Json, llama::Plot> print() const {
    const StepFlops flops = this->flops();
    fmt::print(
        "median of {} rounds in turn; ratio: time / that at rate 0 (least to most); predicted: "
        "that "
        "ratio from the\nparts of the step at rate 0; by flops: from FLOPs alone; efficiency: (1 - "
        "ratio) / (1 - predicted)\n"
        "drop rate  forward ms  backward ms  optimizer ms   step ms   ratio                "
        "predicted     by flops  efficiency\n",
        rows_[0].times.size());
    Json json = Json::array();
    llama::Plot plot{.title = "Time of a training step",
                     .x_label = "drop rate",
                     .y_label = "time / that at rate 0",
                     .series = {{.name = "measured: median, least and most",
                                 .points = {},
                                 .spread = {},
                                 .line = llama::Line::none},
                                {.name = "predicted from the parts at rate 0",
                                 .points = {},
                                 .line = llama::Line::dashed}},
                     .y_from_zero = true};
    for (const Row& row : rows_) {
      const Spread ratio = spread_of(row.ratios);
      const double limit = median(row.limits);
      const double flops_limit =
          (flops.all() -
           (1.0 - row.backward_share / rows_[0].backward_share) * flops.branches_backward) /
          flops.all();
      const double efficiency = limit < 1.0 ? (1.0 - ratio.median) / (1.0 - limit) : 1.0;
      const double forward = milliseconds(row, &StepTimes::forward),
                   backward = milliseconds(row, &StepTimes::backward),
                   optimizer = milliseconds(row, &StepTimes::optimizer),
                   step = milliseconds(row, &StepTimes::step);
      fmt::print(
          "{:>9} {:>11.1f} {:>12.1f} {:>13.1f} {:>9.1f}   {:.4f} ({:.4f}-{:.4f})  {:>7.4f} "
          "{:>12.4f} {:>11.3f}\n",
          1.0 - row.kept_share, forward, backward, optimizer, step, ratio.median, ratio.least,
          ratio.most, limit, flops_limit, efficiency);
      json.push_back({{"drop_rate", 1.0 - row.kept_share},
                      {"forward_ms", forward},
                      {"backward_ms", backward},
                      {"optimizer_ms", optimizer},
                      {"step_ms", step},
                      {"ratio", ratio.median},
                      {"least_ratio", ratio.least},
                      {"most_ratio", ratio.most},
                      {"limit", limit},
                      {"flops_limit", flops_limit},
                      {"efficiency", efficiency}});
      plot.series[0].points.emplace_back(1.0 - row.kept_share, ratio.median);
      plot.series[0].spread.emplace_back(ratio.least, ratio.most);
      plot.series[1].points.emplace_back(1.0 - row.kept_share, limit);
    }
    return {std::move(json), std::move(plot)};
  }

 private:
  struct Row {
    double drop_rate = 0.0, kept_share = 0.0, backward_share = 0.0;
    std::vector<StepTimes> times;
    std::vector<double> ratios, limits;
  };

  static double milliseconds(const Row& row, double StepTimes::* part) {
    std::vector<double> values;
    for (const StepTimes& one : row.times) values.push_back(1e3 * one.*part);
    return median(std::move(values));
  }

  Trainer<T, Backend>& trainer_;
  Training training_;
  std::vector<Row> rows_;
};

}  // namespace bench
