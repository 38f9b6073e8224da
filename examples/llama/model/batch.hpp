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
  dropbp::ops::SequenceShape shape;  ///< without sample_begin
  std::vector<std::int32_t> inputs;
  std::vector<std::int32_t> labels;  ///< or ops::CrossEntropy's ignore_index
  /// Number of labelled tokens that the loss is divided by: that of the whole optimizer step if the
  /// batch is one of its micro-steps, so that losses and gradients add up. Empty: that of the
  /// batch.
  std::optional<double> divisor = std::nullopt;
  /// Where several samples share a sequence: of each token the position at which its sample begins.
  std::vector<std::int32_t> sample_begin = {};

  /// For attention; the batch must outlive the backward pass.
  [[nodiscard]] dropbp::ops::SequenceShape packed_shape() const {
    return {shape.batch, shape.sequence, sample_begin};
  }
};

/// `count` sequences of `batch` from number `first` on, with its divisor.
[[nodiscard]] inline Batch rows_of(const Batch& batch, std::ptrdiff_t first, std::ptrdiff_t count) {
  const std::ptrdiff_t begin = first * batch.shape.sequence,
                       end = begin + count * batch.shape.sequence;
  const auto part = [&](const std::vector<std::int32_t>& all) -> std::vector<std::int32_t> {
    if (all.empty()) return {};
    return {all.begin() + begin, all.begin() + end};
  };
  return {.shape = {count, batch.shape.sequence},
          .inputs = part(batch.inputs),
          .labels = part(batch.labels),
          .divisor = batch.divisor,
          .sample_begin = part(batch.sample_begin)};
}

/// One sequence of `batch`, with its labels alone.
[[nodiscard]] inline Batch row_of(const Batch& batch, std::ptrdiff_t row) {
  Batch one = rows_of(batch, row, 1);
  one.divisor.reset();
  return one;
}

}  // namespace llama
