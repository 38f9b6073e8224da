// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Sums that stay in device memory until the host reads one of them. Then all sums so far come in
// one copy, so that a step with many norms and a loss waits once.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "dropbp/base/deferred.hpp"
#include "dropbp/kernels/cuda/backend.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {

/// A sum as two floats, as accurate as a double. GPUs compute slowly in double.
struct ExactSum {
  float high;  ///< the rounded sum
  float low;   ///< the rounding error

  /// The sum as a double.
  double value() const { return static_cast<double>(high) + static_cast<double>(low); }
};

namespace detail {

// Adds a value to a sum and keeps the rounding error. Source: Knuth, The Art of Computer
// Programming 2, 4.2.2, theorem B.
DROPBP_HOST_DEVICE void add_exactly(ExactSum& sum, float value) {
  const float total = sum.high + value, part = total - sum.high;
  sum.low += (sum.high - (total - part)) + (value - part);
  sum.high = total;
}

// sums[i] = scale * the sum of partial[starts[i]] to partial[starts[i + 1] - 1]. One block per sum;
// each thread adds every 128th partial sum in order.
struct FinishSums {
  static constexpr const char* name = "finish_sums";
  static constexpr unsigned threads = 128, min_blocks = 1;

  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, ExactSum* sums, const float* partial,
                                const std::int64_t* starts, float scale) const {
    auto* const scratch = reinterpret_cast<ExactSum*>(ctx.shared());
    ExactSum sum{0.0f, 0.0f};
    for (Index i = starts[ctx.block()] + ctx.thread(); i < starts[ctx.block() + 1]; i += threads)
      add_exactly(sum, partial[i] * scale);
    scratch[ctx.thread()] = sum;
    ctx.sync();
    if (ctx.thread() != 0) return;
    for (unsigned i = 1; i < threads; ++i) {
      add_exactly(sum, scratch[i].high);
      sum.low += scratch[i].low;
    }
    sums[ctx.block()] = sum;
  }
};

}  // namespace detail

/// sums [count]: sum i is scale times that of partial[starts[i]] to partial[starts[i + 1] - 1].
/// starts [count + 1].
template <class Launcher>
void finish_sums(Launcher& launch, ExactSum* sums, const float* partial, const std::int64_t* starts,
                 Index count, float scale = 1.0f) {
  launch(Grid{.x = static_cast<unsigned>(count),
              .shared_bytes = detail::FinishSums::threads * sizeof(ExactSum)},
         detail::FinishSums{}, sums, partial, starts, scale);
}

namespace detail {

// Device memory for sums in the order of one CUDA stream. The numbers keep it alive.
template <class Backend>
class SumBoard {
 public:
  // Where the next `count` sums of the current stream go, and the board and place to read them.
  struct Place {
    std::shared_ptr<SumBoard> board;
    std::size_t first;

    ExactSum* data() const { return board->sums_.data() + first; }
    DeferredNumber number(std::size_t i) const { return {board, first + i, &SumBoard::read}; }
  };
  static Place next(std::size_t count) {
    thread_local std::shared_ptr<SumBoard> current;
    if (current == nullptr || current->where_ != device_runtime<Backend>::place())
      current = std::make_shared<SumBoard>((std::max)(count, std::size_t{1024}));
    else if (current.use_count() == 1)
      current->used_ = current->known_ = 0;  // no number is left
    else if (current->all_known())
      current = std::make_shared<SumBoard>(std::move(current->sums_));
    if (const std::size_t capacity = current->values_.size(); current->used_ + count > capacity)
      current = std::make_shared<SumBoard>((std::max)(count, 2 * capacity));
    const std::lock_guard lock(current->mutex_);
    current->used_ += count;
    return {current, current->used_ - count};
  }

  explicit SumBoard(std::size_t capacity)
      : SumBoard(ops::Matrix<ExactSum, Backend>(1, static_cast<Index>(capacity))) {}
  explicit SumBoard(ops::Matrix<ExactSum, Backend> sums)
      : sums_(std::move(sums)), values_(sums_.size()), where_(device_runtime<Backend>::place()) {}

 private:
  bool all_known() {
    const std::lock_guard lock(mutex_);
    return known_ == used_;
  }

  // Copies the sums that the host does not know yet, and returns sum `at`.
  static double read(const void* self, std::size_t at) {
    auto& board = *static_cast<SumBoard*>(const_cast<void*>(self));
    const std::lock_guard lock(board.mutex_);
    if (at >= board.known_) {
      const typename device_runtime<Backend>::PlaceScope scope(board.where_);
      device_runtime<Backend>::copy_to_host(board.values_.data() + board.known_,
                                            board.sums_.data() + board.known_,
                                            (board.used_ - board.known_) * sizeof(ExactSum));
      board.known_ = board.used_;
    }
    return board.values_[at].value();
  }

  ops::Matrix<ExactSum, Backend> sums_;  // given to the next board when all are known
  std::vector<ExactSum> values_;         // the first known_ sums
  std::size_t used_ = 0, known_ = 0;
  typename device_runtime<Backend>::Place where_;  // device and stream that compute the sums
  std::mutex mutex_;
};

}  // namespace detail
}  // namespace cuda
DROPBP_NAMESPACE_END
