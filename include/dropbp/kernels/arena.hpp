// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// One piece of memory from which blocks are cut in order, as a stack.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "dropbp/backend/cpu/host.hpp"
#include "dropbp/backend/device.hpp"
#include "dropbp/base/error.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// What is given back is free again as soon as nothing behind it is in use, so that it suits what
/// backward passes free in reverse. An arena does not grow by itself: that it suffices is what it
/// was made for. Of no bytes at first. Not safe to use from several threads.
template <class Backend>
class MemoryArena {
 public:
  static constexpr std::size_t grain = 64;  ///< blocks begin at multiples of it

  MemoryArena() = default;                              ///< of no bytes
  MemoryArena(const MemoryArena&) = delete;             ///< blocks point into it
  MemoryArena& operator=(const MemoryArena&) = delete;  ///< blocks point into it
  ~MemoryArena() { release(); }

  bool exists() const noexcept { return memory_ != nullptr; }        ///< has memory
  bool empty() const noexcept { return pieces_.empty(); }            ///< no block is alive
  std::size_t capacity() const noexcept { return capacity_; }        ///< bytes
  std::size_t allocations() const noexcept { return allocations_; }  ///< of the system, so far
  /// Bytes up to the highest block that is alive.
  std::size_t used() const noexcept { return pieces_.empty() ? 0 : pieces_.back().end; }

  /// Whether a block was cut from it.
  bool holds(const void* block) const noexcept {
    const auto* at = static_cast<const std::byte*>(block);
    return memory_ != nullptr && !std::less<>{}(at, memory_) &&
           std::less<>{}(at, memory_ + capacity_);
  }

  /// Makes ready for resize(). Throws std::logic_error where a block is alive, std::bad_alloc.
  void prepare(std::size_t capacity, std::size_t blocks) {
    if (!pieces_.empty())
      dropbp::detail::throw_order(
          "an arena must be empty to grow to " + std::to_string(capacity) + " bytes",
          std::to_string(used()) + " of its " + std::to_string(capacity_) + " are in use",
          "reserve enough before the forward pass, when all backward passes have run");
    pieces_.reserve(blocks);
  }

  /// An empty one gets another size. Throws what its memory throws where there is no room, with the
  /// size as it was.
  void resize(std::size_t capacity) {
    // The smaller one first: both together may be more than there is.
    const std::size_t before = capacity_;
    release();
    try {
      make(capacity);
    } catch (...) {
      if (before > 0) make(before);
      throw;
    }
  }

  /// A block. Throws std::invalid_argument where there is no room.
  void* take(std::size_t bytes) {
    const std::size_t begin = used(), size = (bytes + grain - 1) / grain * grain;
    if (bytes > capacity_ || size > capacity_ - begin)
      dropbp::detail::throw_invalid(
          "an arena must have room for all blocks that are alive at once",
          std::to_string(bytes) + " bytes were asked for with " + std::to_string(begin) +
              " of its " + std::to_string(capacity_) + " in use",
          "reserve more, keep fewer branches, or lower batch or sequence");
    pieces_.push_back({begin + size, true});
    return memory_ + begin;
  }

  /// A block that it holds.
  void give_back(const void* block) noexcept {
    const auto begin = static_cast<std::size_t>(static_cast<const std::byte*>(block) - memory_);
    const auto ends_behind = [](std::size_t at, const Piece& piece) { return at < piece.end; };
    std::upper_bound(pieces_.begin(), pieces_.end(), begin, ends_behind)->alive = false;
    while (!pieces_.empty() && !pieces_.back().alive) pieces_.pop_back();
  }

  /// An empty one gives its memory back to the system.
  void release() noexcept {
    if (memory_ != nullptr) device_runtime<Backend>::release(memory_, capacity_);
    memory_ = nullptr;
    capacity_ = 0;
  }

 private:
  // From the end of the one below.
  struct Piece {
    std::size_t end;  // where the next one begins
    bool alive;       // not given back yet
  };

  void make(std::size_t capacity) {
    memory_ = static_cast<std::byte*>(device_runtime<Backend>::allocate(capacity));
    capacity_ = capacity;
    ++allocations_;
  }

  std::byte* memory_ = nullptr;
  std::size_t capacity_ = 0, allocations_ = 0;
  std::vector<Piece> pieces_;  // from the bottom; the highest is alive
};

}  // namespace ops
DROPBP_NAMESPACE_END
