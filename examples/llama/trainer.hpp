// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
// One training run: model, handler, optimizer and data, advanced a step at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <dropbp/dropbp.hpp>
#include <dropbp/ops/adamw.hpp>

#include "data.hpp"
#include "model.hpp"
#include "options.hpp"
#include "report.hpp"

namespace llama {

/// The allocation policy chosen on the command line. A policy is any class with this one function.
struct ChosenAllocation {
  AllocationChoice choice = AllocationChoice::greedy;

  std::vector<double> allocate(const dropbp::AllocationInput& input) const {
    return choice == AllocationChoice::uniform ? dropbp::UniformAllocation{}.allocate(input)
                                               : dropbp::GreedyAllocation{}.allocate(input);
  }
};

/// The sampling policy chosen on the command line.
struct ChosenSampling {
  using Prepared = dropbp::AtLeastTargetSampling::Prepared;
  SamplingChoice choice = SamplingChoice::bernoulli;

  Prepared prepare(const dropbp::SamplingInput& input) const {
    if (choice == SamplingChoice::at_least_target) return dropbp::AtLeastTargetSampling{}.prepare(input);
    Prepared prepared;
    prepared.independent = dropbp::BernoulliSampling{}.prepare(input);
    return prepared;
  }
  void draw(const Prepared& prepared, const dropbp::CounterRandom& random, std::span<std::uint8_t> dropped) const {
    if (choice == SamplingChoice::at_least_target)
      dropbp::AtLeastTargetSampling{}.draw(prepared, random, dropped);
    else
      dropbp::BernoulliSampling{}.draw(prepared.independent, random, dropped);
  }
};

/// Trains one model at one target drop rate.
class Trainer {
 public:
  /// `data` must outlive the trainer. Throws std::runtime_error for a checkpoint or data that do not fit.
  Trainer(const Options& options, const LlamaConfig& config, const TokenData& data, double drop_rate);

  /// Runs step number steps_done(); steps follow each other from 0.
  const StepRecord& step();
  std::uint64_t steps_done() const noexcept { return records_.size(); }

  /// Mean loss over the fixed validation windows; recorded with the last step.
  double validate();
  bool can_validate() const noexcept { return validation_.has_value(); }

  /// Seconds of training steps so far; validation and the measurement of sensitivities are not in it.
  double training_seconds() const noexcept { return training_seconds_; }
  double measurement_seconds() const noexcept { return measurement_seconds_; }

  std::span<const StepRecord> records() const noexcept { return records_; }
  Summary summary() const;
  dropbp::Report drop_report() const { return handler_.report(); }
  LlamaModel<float>& model() noexcept { return model_; }

 private:
  void measure_and_allocate();
  double learning_rate_scale(std::uint64_t step) const;

  Options options_;
  LlamaModel<float> model_;
  dropbp::DropBPHandler<LlamaModel<float>, ChosenAllocation, ChosenSampling> handler_;
  dropbp::ops::AdamW<float> optimizer_;
  BatchSampler sampler_;
  std::optional<EvaluationWindows> validation_;
  Batch batch_;
  std::vector<StepRecord> records_;
  std::optional<double> last_validation_loss_;
  double training_seconds_ = 0.0;
  double measurement_seconds_ = 0.0;
};

/// The drop rate's saving against what is physically possible, both runs measured side by side.
struct Comparison {
  double backward_ratio = 1.0;  ///< backward time per step, this run / baseline
  double backward_limit = 1.0;  ///< if only the dropped branches' share of the branches' backward time were saved
  double step_ratio = 1.0;
  double step_limit = 1.0;      ///< and the optimizer's share of the parameters without a gradient
  double activation_ratio = 1.0;///< mean over the steps of the bytes saved for the backward pass, this run / baseline
  double activation_limit = 1.0;///< the kept branches' share of those bytes, by formula
  double loss_difference = 0.0; ///< at step 0, where both models are the same: must be exactly 0
};

/// Compares two runs that took their steps in turn.
Comparison compare(std::span<const StepRecord> run, std::span<const StepRecord> baseline);

}  // namespace llama
