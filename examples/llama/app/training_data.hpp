// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What a trainer asks of its data, be it running text or samples.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "llama/model/batch.hpp"

namespace llama {

/// How data are read.
struct BatchOptions {
  std::ptrdiff_t batch = 1;     ///< sequences of a micro-step
  std::ptrdiff_t sequence = 1;  ///< tokens, at most
  std::ptrdiff_t micro_steps = 1;
  std::uint64_t seed = 1;
  std::ptrdiff_t eval_batches = 1;  ///< at most
};

/// Training batches as a pure function of step and micro-step, so that a run goes on at any step.
/// Not for use by two threads at a time.
class BatchSource {
 public:
  virtual ~BatchSource() = default;
  /// Fills the batch, and gives it the number of labels of the whole step as divisor.
  virtual void fill(std::uint64_t step, std::uint32_t micro_step, Batch& batch) const = 0;
  /// Tokens of a step, without what only fills up rows.
  [[nodiscard]] virtual std::uint64_t tokens(std::uint64_t step) const = 0;
};

/// The same batches every time, so that validation losses can be compared.
class EvaluationSource {
 public:
  virtual ~EvaluationSource() = default;
  [[nodiscard]] virtual std::size_t batches() const noexcept = 0;
  /// Fills the batch of number `index`, and gives it the number of labels of all as divisor.
  virtual void fill(std::size_t index, Batch& batch) const = 0;
};

/// Sources must not outlive the data that they are of.
class TrainingData {
 public:
  virtual ~TrainingData() = default;
  /// Throws std::runtime_error where there is too little for one batch.
  [[nodiscard]] virtual std::unique_ptr<BatchSource> training(
      const BatchOptions& options) const = 0;
  /// Null where nothing is held out.
  [[nodiscard]] virtual std::unique_ptr<EvaluationSource> validation(
      const BatchOptions& options) const = 0;
  /// Optimizer steps that read everything `epochs` times; the last one is filled up from the next
  /// epoch.
  [[nodiscard]] virtual std::uint64_t steps(std::uint64_t epochs,
                                            const BatchOptions& options) const = 0;
  /// "2000 training tokens"
  [[nodiscard]] virtual std::string size_text() const = 0;
  /// Sizes and checksums of all that decides the batches beside the options.
  [[nodiscard]] virtual std::string identity() const = 0;
};

}  // namespace llama
