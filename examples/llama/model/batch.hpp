// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What a model reads in one micro-step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <dropbp/kernels/kernels.hpp>
#include <optional>
#include <vector>

namespace llama {

/// Token ids and the ids that follow them, both [batch, sequence] row-major.
struct Batch {
  dropbp::ops::SequenceShape shape;
  std::vector<std::int32_t> inputs;
  std::vector<std::int32_t> labels;  ///< or ops::CrossEntropy's ignore_index
  /// Labelled tokens of the whole optimizer step, where the batch is one of its micro-steps: losses
  /// and gradients are then shares that add up. None: those of the batch.
  std::optional<double> divisor = std::nullopt;
};

/// One sequence of `batch`, with its labels alone.
[[nodiscard]] inline Batch row_of(const Batch& batch, std::ptrdiff_t row) {
  const std::ptrdiff_t begin = row * batch.shape.sequence, end = begin + batch.shape.sequence;
  return {.shape = {1, batch.shape.sequence},
          .inputs = {batch.inputs.begin() + begin, batch.inputs.begin() + end},
          .labels = {batch.labels.begin() + begin, batch.labels.begin() + end}};
}

}  // namespace llama
