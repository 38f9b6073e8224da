// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Rows of samples as batches.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "llama/app/samples.hpp"
#include "llama/app/training_data.hpp"

namespace llama {

/// Samples in rows of at most `sequence` positions. A sample of n tokens takes n - 1: its last one
/// is a label alone.
class SampleRows {
 public:
  /// `samples` must outlive this, and have 2 to sequence + 1 tokens each (std::invalid_argument).
  SampleRows(std::span<const Sample> samples, std::ptrdiff_t sequence, bool pack);

  [[nodiscard]] std::size_t size() const noexcept { return rows_.size(); }
  [[nodiscard]] std::size_t positions(std::size_t row) const { return rows_.at(row).positions; }
  [[nodiscard]] std::size_t labels(std::size_t row) const { return rows_.at(row).labels; }

  /// Fills the batch with these rows. It is as long as the longest of them, rounded up to an eighth
  /// of the sequence so that few shapes occur; what is behind the end of a row has no label. Packed
  /// samples do not see each other; that their positions count on makes no difference, because
  /// rotary embeddings depend on differences of positions alone.
  void fill(std::span<const std::size_t> rows, Batch& batch) const;

 private:
  struct Row {
    std::vector<std::size_t> samples;
    std::size_t positions = 0;
    std::size_t labels = 0;
  };
  std::span<const Sample> samples_;
  std::size_t sequence_;
  bool packed_;
  std::vector<Row> rows_;
};

/// Goes through the rows in an order drawn from (seed, epoch), epoch after epoch.
class RowBatches final : public BatchSource {
 public:
  /// Throws std::runtime_error where there is no row.
  RowBatches(SampleRows rows, const BatchOptions& options);
  void fill(std::uint64_t step, std::uint32_t micro_step, Batch& batch) const override;
  [[nodiscard]] std::uint64_t tokens(std::uint64_t step) const override;

 private:
  std::size_t row(std::uint64_t number) const;
  template <typename Visit>
  void for_each_row(std::uint64_t step, Visit visit) const;

  SampleRows rows_;
  BatchOptions options_;
  /// Of the two epochs that were asked for last: a batch may end one and begin the next.
  struct Order {
    std::uint64_t epoch = ~std::uint64_t{0};
    std::vector<std::uint32_t> rows;
  };
  mutable Order orders_[2];
};

/// All rows or, where they are more than eval_batches hold, evenly spaced ones.
class RowEvaluation final : public EvaluationSource {
 public:
  RowEvaluation(SampleRows rows, const BatchOptions& options);
  [[nodiscard]] std::size_t batches() const noexcept override;
  void fill(std::size_t index, Batch& batch) const override;

 private:
  SampleRows rows_;
  std::vector<std::size_t> chosen_;
  std::size_t batch_;
  double labels_ = 0.0;
};

}  // namespace llama
