// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The rows of a batch that one rank of several reads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "llama/app/training_data.hpp"
#include "llama/model/batch.hpp"

namespace llama {

/// Which of the ranks a process is.
struct RankNumber {
  std::ptrdiff_t rank = 0, ranks = 1;
};

/// Of N rows those from N * rank / ranks on, possibly none. The divisor stays that of all rows, so
/// that losses and gradients of the ranks add up to those of one process with all rows.
inline void take_rows(Batch& batch, RankNumber number) {
  const std::ptrdiff_t rows = batch.shape.batch;
  const std::ptrdiff_t first = rows * number.rank / number.ranks;
  const std::ptrdiff_t end = rows * (number.rank + 1) / number.ranks;
  batch = rows_of(batch, first, end - first);
}

/// The training batches of one rank. tokens() stays that of all ranks.
class RankBatches final : public BatchSource {
 public:
  RankBatches(std::unique_ptr<BatchSource> of_all, RankNumber number)
      : of_all_(std::move(of_all)), number_(number) {}

  void fill(std::uint64_t step, std::uint32_t micro_step, Batch& batch) const override {
    of_all_->fill(step, micro_step, batch);
    take_rows(batch, number_);
  }
  [[nodiscard]] std::uint64_t tokens(std::uint64_t step) const override {
    return of_all_->tokens(step);
  }

 private:
  std::unique_ptr<BatchSource> of_all_;
  RankNumber number_;
};

/// The validation batches of one rank.
class RankEvaluation final : public EvaluationSource {
 public:
  RankEvaluation(std::unique_ptr<EvaluationSource> of_all, RankNumber number)
      : of_all_(std::move(of_all)), number_(number) {}

  [[nodiscard]] std::size_t batches() const noexcept override { return of_all_->batches(); }
  void fill(std::size_t index, Batch& batch) const override {
    of_all_->fill(index, batch);
    take_rows(batch, number_);
  }

 private:
  std::unique_ptr<EvaluationSource> of_all_;
  RankNumber number_;
};

}  // namespace llama
