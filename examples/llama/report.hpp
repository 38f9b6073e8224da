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

#include "config.hpp"
#include "options.hpp"

namespace llama {

struct StepRecord {
  std::uint64_t step = 0;
  double loss = 0.0;                      ///< mean cross-entropy of the step's tokens, in nats
  std::optional<double> validation_loss;  ///< where it was measured
  std::vector<std::size_t> dropped;       ///< branches whose backward was dropped
  double forward_ms = 0.0;
  double backward_ms = 0.0;
  double optimizer_ms = 0.0;
  std::size_t activation_bytes = 0;  ///< saved for the backward pass, at the peak of the step

  // For the comparison with a baseline; not in the JSON.
  double step_ms = 0.0;                     ///< the whole step
  double branches_backward_ms = 0.0;        ///< the branches' share of backward_ms
  double gradient_norm = 0.0;               ///< global, before clipping
  double kept_flops_fraction = 0.0;         ///< of the branches' backward FLOPs
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

/// A pure function of its arguments, so that an interrupted run reports what it has. Numbers that JSON lacks (NaN, infinity)
/// become null; `config` holds the options and, under "model", the shape in use. A baseline appears under "baseline".
[[nodiscard]] std::string report_json(const Options& options, const LlamaConfig& model, const RunReport& run,
                                      const std::optional<RunReport>& baseline = std::nullopt);

/// Writes it whole or leaves the old file (std::runtime_error).
void write_report(const std::filesystem::path& path, const Options& options, const LlamaConfig& model, const RunReport& run,
                  const std::optional<RunReport>& baseline = std::nullopt);

}  // namespace llama
