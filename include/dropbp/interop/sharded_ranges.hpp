// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Optimizer state that is spread over the ranks of a job.
#pragma once

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <span>
#include <vector>

#include "dropbp/base/error.hpp"
#include "dropbp/interop/communicator.hpp"
#include "dropbp/parameter_ranges.hpp"

DROPBP_NAMESPACE_BEGIN

/// Gives each range of a flat array of parameters to one rank, which alone has its moments, updates
/// it and sends the result to the others: stage 1 of ZeRO (Rajbhandari et al., "ZeRO: memory
/// optimizations toward training trillion parameter models", SC 2020). A range that a step does
/// not train is neither updated nor sent. In place of the optimizer's loop:
///   const auto trained = ranges.end_step(plan);
///   for (const dropbp::TrainedRange& range : trained)
///     if (shards.owns(range)) adamw(range, moments.data() + shards.place(range));
///   shards.share(trained);
/// Gradients must have been summed over the ranks before (GradientReducer).
template <Communicator C, class T = float>
class ShardedRanges {
 public:
  /// `parameters` has the array of `ranges`, the same on all ranks. Both must stay where they are.
  /// The largest range goes first, to the rank that has the fewest elements yet.
  ShardedRanges(C& communicator, const ParameterRanges& ranges, T* parameters)
      : communicator_(&communicator), parameters_(parameters) {
    ranges.for_each_range([&](std::size_t, std::size_t offset, std::size_t count) {
      shards_.push_back({offset, count, 0, 0});
    });
    std::vector<std::size_t> order(shards_.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return shards_[a].count != shards_[b].count ? shards_[a].count > shards_[b].count : a < b;
    });
    sizes_.resize(static_cast<std::size_t>(communicator.size()));
    for (const std::size_t i : order) {
      const auto least = std::min_element(sizes_.begin(), sizes_.end());
      shards_[i].owner = static_cast<int>(least - sizes_.begin());
      shards_[i].place = *least;
      *least += shards_[i].count;
    }
  }

  /// Elements whose moments this rank has.
  std::size_t size() const { return sizes_[static_cast<std::size_t>(communicator_->rank())]; }
  /// The same of each rank.
  std::span<const std::size_t> sizes() const noexcept { return detail::view(sizes_); }

  /// Whether this rank updates the range. Throws std::invalid_argument, as the others do, for a
  /// range that is none of ParameterRanges::end_step.
  bool owns(const TrainedRange& range) const {
    return shard_of(range).owner == communicator_->rank();
  }

  /// Where the range begins among the elements of its owner.
  std::size_t place(const TrainedRange& range) const { return shard_of(range).place; }

  /// Sends the updated ranges from their owners to all ranks, and waits.
  void share(std::span<const TrainedRange> trained) {
    requests_.clear();
    for (const TrainedRange& range : trained)
      requests_.push_back(communicator_->broadcast(
          std::as_writable_bytes(std::span<T>(parameters_ + range.offset, range.count)),
          shard_of(range).owner));
    for (typename C::Request& request : requests_) communicator_->wait(request);
  }

 private:
  struct Shard {
    std::size_t offset, count;
    int owner;
    std::size_t place;  // of the first element among those of its owner
  };

  const Shard& shard_of(const TrainedRange& range) const {
    const auto at = std::lower_bound(
        shards_.begin(), shards_.end(), range.offset,
        [](const Shard& shard, std::size_t offset) { return shard.offset < offset; });
    if (at == shards_.end() || at->offset != range.offset || at->count != range.count)
      detail::throw_invalid("a range must be one of those that were shared out",
                            "one of " + detail::text(range.count) + " elements from " +
                                detail::text(range.offset) + " is not",
                            "pass what ParameterRanges::end_step returns, and add all tensors "
                            "before the ranges are shared out");
    return *at;
  }

  C* communicator_;
  T* parameters_;
  std::vector<Shard> shards_;       // by offset
  std::vector<std::size_t> sizes_;  // elements of each rank
  std::vector<typename C::Request> requests_;
};

DROPBP_NAMESPACE_END
