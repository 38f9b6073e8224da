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
  std::optional<double> validation_loss;  ///< where it was measured
  std::vector<std::size_t> dropped;       ///< branches whose backward was dropped
  double forward_ms = 0.0;
  double backward_ms = 0.0;
  double optimizer_ms = 0.0;
  std::size_t activation_bytes = 0;  ///< saved for the backward pass, at the peak of the step

  // What compare() needs; not in the JSON.
  double step_ms = 0.0;               ///< the whole step
  double branches_backward_ms = 0.0;  ///< the branches' share of backward_ms
  double gradient_norm = 0.0;         ///< global, before clipping
  double kept_flops_fraction =
      0.0;  ///< of the branches' backward FLOPs with all input gradients, what was to be computed
  double updated_parameter_fraction = 0.0;  ///< numbers whose tensor had a gradient
  std::size_t kept_activation_bytes = 0;    ///< the kept branches' bytes by formula
};

struct Summary {
  double tokens_per_second = 0.0;
  double final_loss = 0.0;
  std::optional<double> validation_loss;
  double mean_drop_rate = 0.0;           ///< realised, over branches and steps
  double backward_flops_fraction = 0.0;  ///< of the branches' backward FLOPs, those that were run
  std::size_t peak_activation_bytes = 0;
};

/// One training run; the records must outlive this.
struct RunReport {
  std::span<const StepRecord> steps;
  Summary summary;
};

/// The two runs when both have trained for the same time, as long as the shorter one took.
struct EqualTime {
  double seconds = 0.0;        ///< of training steps
  double loss = 0.0;           ///< validation loss, on a line between the two nearest measurements
  double baseline_loss = 0.0;  ///< likewise
};

/// The drop rate's saving against what is physically possible, both runs measured side by side.
struct Comparison {
  double backward_ratio = 1.0;  ///< backward time per step, this run / baseline
  double backward_limit = 1.0;  ///< if the branches' backward time were saved in proportion to the
                                ///< FLOPs that the plans leave out
  double step_ratio = 1.0;
  double step_limit = 1.0;  ///< and the optimizer's share of the parameters without a gradient
  double activation_ratio =
      1.0;  ///< mean over the steps of the bytes saved for the backward pass, this run / baseline
  double activation_limit = 1.0;  ///< the kept branches' share of those bytes, by formula
  double loss_difference = 0.0;   ///< at step 0, where both models are the same: must be exactly 0
  std::optional<EqualTime> equal_time;  ///< where both were validated by then
};

/// Compares two runs that took their steps in turn.
Comparison compare(std::span<const StepRecord> run, std::span<const StepRecord> baseline);

/// A pure function of its arguments, so that an interrupted run reports what it has. Numbers that
/// JSON lacks (NaN, infinity) become null; `config` holds the options, under "model" the shape in
/// use, and the adapters in use, wherever they came from. A baseline appears under "baseline", and
/// compare() of the two under "comparison".
[[nodiscard]] std::string report_json(const Options& options, const LlamaConfig& model,
                                      const ops::LoraConfig& adaptation, const RunReport& run,
                                      const std::optional<RunReport>& baseline = std::nullopt);

/// The table that ends a run: a line for each run and, with a baseline, what was saved against it.
[[nodiscard]] std::string result_table(double drop_rate, const RunReport& run,
                                       const std::optional<RunReport>& baseline);

/// Training loss (means of 10 steps; the last may be of fewer) and validation loss, over the steps
/// and over the training time: two panels. Each run has one colour, validation is dashed.
/// `baseline` may be empty.
[[nodiscard]] std::vector<Plot> loss_plots(double drop_rate, std::span<const StepRecord> run,
                                           std::span<const StepRecord> baseline);

/// The bytes that branches saved in each step, a series for each run.
[[nodiscard]] Plot memory_plot(double drop_rate, std::span<const StepRecord> run,
                               std::span<const StepRecord> baseline);

/// The member "config" of report_json.
[[nodiscard]] std::string report_config(const Options& options, const LlamaConfig& model,
                                        const ops::LoraConfig& adaptation);

/// Writes it whole or leaves the old file (std::runtime_error).
void write_report(const std::filesystem::path& path, const Options& options,
                  const LlamaConfig& model, const ops::LoraConfig& adaptation, const RunReport& run,
                  const std::optional<RunReport>& baseline = std::nullopt);

}  // namespace llama
