// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What a run did, step by step, as JSON.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <dropbp/ops/lora.hpp>

#include "llama/app/options.hpp"
#include "llama/app/plot.hpp"
#include "llama/formats/config.hpp"

namespace llama {

namespace ops = dropbp::ops;

struct StepRecord {
  std::uint64_t step = 0;
  double loss = 0.0;                      ///< mean cross-entropy of the step's tokens, in nats
  std::optional<double> validation_loss;  ///< if measured after this step
  std::vector<std::size_t> dropped;       ///< branches whose backward was dropped
  double forward_ms = 0.0;
  double backward_ms = 0.0;
  double optimizer_ms = 0.0;
  std::size_t activation_bytes = 0;  ///< saved for the backward pass, at the peak of the step

  // What compare() needs; not in the JSON.
  double step_ms = 0.0;               ///< the whole step
  double branches_backward_ms = 0.0;  ///< the branches' share of backward_ms
  double gradient_norm = 0.0;         ///< global, before clipping
  double kept_flops_fraction = 0.0;   ///< share of the branches' backward FLOPs (with all input
                                      ///< gradients) that the plans kept
  double updated_parameter_fraction = 0.0;  ///< share of the parameters whose tensor had a gradient
  std::size_t kept_activation_bytes = 0;    ///< the kept branches' bytes by formula
};

struct Summary {
  double tokens_per_second = 0.0;
  double final_loss = 0.0;
  std::optional<double> validation_loss;
  double mean_drop_rate = 0.0;  ///< realised, over branches and steps
  double backward_flops_fraction =
      0.0;  ///< share of the branches' backward FLOPs that were computed
  std::size_t peak_activation_bytes = 0;
};

/// A short training with the run's settings and data, from its start.
struct Trial {
  AllocationChoice allocation = AllocationChoice::optimal;
  double drop_rate = 0.0;
  std::uint64_t steps = 0;
  double validation_loss = 0.0;
};

/// Two trials that take the same time, as computed from FLOPs: without drops, and with
/// DepthAllocation. They train nothing that the run keeps.
struct Trials {
  Trial ordinary, depth;

  /// That of the lower validation loss.
  [[nodiscard]] const Trial& better() const noexcept {
    return depth.validation_loss < ordinary.validation_loss ? depth : ordinary;
  }
};

/// One training run; `records` must outlive it.
struct RunReport {
  std::span<const StepRecord> steps;
  Summary summary;
  std::optional<Trials> trials = {};        ///< that decided its drop rate
  std::vector<std::string> attention = {};  ///< see device_notes
};

/// The two runs when both have trained for the same time, as long as the shorter one took.
struct EqualTime {
  double seconds = 0.0;        ///< of training steps
  double loss = 0.0;           ///< validation loss, on a line between the two nearest measurements
  double baseline_loss = 0.0;  ///< likewise
};

/// What dropping saved, and the most it could save; both runs are measured in alternating steps.
struct Comparison {
  double backward_ratio = 1.0;  ///< backward time per step, this run / baseline
  double backward_limit =
      1.0;  ///< if the branches' backward time fell in proportion to the dropped FLOPs
  double step_ratio = 1.0;
  double step_limit = 1.0;  ///< if the optimizer's time also fell in proportion to the parameters
                            ///< without a gradient
  double activation_ratio =
      1.0;  ///< mean over the steps of the bytes saved for the backward pass, this run / baseline
  double activation_limit = 1.0;  ///< the same ratio, computed from the kept branches' formulas
  double loss_difference = 0.0;   ///< at step 0; exactly 0, because both models are still equal
  std::optional<EqualTime> equal_time;  ///< where both were validated by then
};

/// Compares two runs whose steps alternated.
Comparison compare(std::span<const StepRecord> run, std::span<const StepRecord> baseline);

/// A pure function of its arguments, so that an interrupted run can be reported too. NaN and
/// infinity become null. "attention", on a device, says what computed it. "config" holds the
/// options, the model's shape and its adapters as used. "trials" has those of --drop-rate auto. A
/// baseline appears under "baseline", and compare() of the two runs under "comparison".
[[nodiscard]] std::string report_json(const Options& options, const LlamaConfig& model,
                                      const ops::LoraConfig& lora, const RunReport& run,
                                      const std::optional<RunReport>& baseline = std::nullopt);

/// The table at the end of a run: a line for each run and, with a baseline, the savings.
[[nodiscard]] std::string result_table(double drop_rate, const RunReport& run,
                                       const std::optional<RunReport>& baseline);

/// Two panels, over steps and over training time, with the training loss (means of 10 steps; the
/// last may have fewer) and the validation loss. Each run has one colour; validation is dashed.
/// `baseline` may be empty.
[[nodiscard]] std::vector<Plot> loss_plots(double drop_rate, std::span<const StepRecord> run,
                                           std::span<const StepRecord> baseline);

/// The bytes that branches saved in each step, a series for each run.
[[nodiscard]] Plot memory_plot(double drop_rate, std::span<const StepRecord> run,
                               std::span<const StepRecord> baseline);

/// The member "config" of report_json.
[[nodiscard]] std::string report_config(const Options& options, const LlamaConfig& model,
                                        const ops::LoraConfig& lora);

/// Writes the report, or throws std::runtime_error and leaves the old file unchanged.
void write_report(const std::filesystem::path& path, const Options& options,
                  const LlamaConfig& model, const ops::LoraConfig& lora, const RunReport& run,
                  const std::optional<RunReport>& baseline = std::nullopt);

}  // namespace llama
