// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// An arena: one allocation, from which blocks are cut in order, as on a stack.
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

/// A stack of blocks in one allocation. The memory of a released block becomes free when all blocks
/// above it are released too, which suits backward passes: they release blocks in reverse order. An
/// arena does not grow; its owner chooses the capacity. A new arena has no memory. Not safe to use
/// from several threads.
template <class Backend>
class MemoryArena {
 public:
  static constexpr std::size_t grain = 64;  ///< blocks begin at multiples of `grain` bytes

  MemoryArena() = default;                              ///< has no memory
  MemoryArena(const MemoryArena&) = delete;             ///< blocks point into the arena's memory
  MemoryArena& operator=(const MemoryArena&) = delete;  ///< blocks point into the arena's memory
  ~MemoryArena() { release(); }

  bool exists() const noexcept { return memory_ != nullptr; }  ///< whether the arena has memory
  bool empty() const noexcept { return pieces_.empty(); }      ///< whether no block is in use
  std::size_t capacity() const noexcept { return capacity_; }  ///< bytes
  std::size_t allocations() const noexcept { return allocations_; }  ///< from the system, so far
  /// Bytes up to the end of the highest block in use.
  std::size_t used() const noexcept { return pieces_.empty() ? 0 : pieces_.back().end; }

  /// Whether `block` lies in this arena.
  bool holds(const void* block) const noexcept {
    const auto* at = static_cast<const std::byte*>(block);
    return memory_ != nullptr && !std::less<>{}(at, memory_) &&
           std::less<>{}(at, memory_ + capacity_);
  }

  /// Checks that resize() may be called and reserves the bookkeeping for `blocks` blocks. Throws
  /// std::logic_error if a block is in use, std::bad_alloc if there is no memory.
  void prepare(std::size_t capacity, std::size_t blocks) {
    if (!pieces_.empty())
      dropbp::detail::throw_order(
          "an arena must be empty to grow to " + std::to_string(capacity) + " bytes",
          std::to_string(used()) + " of its " + std::to_string(capacity_) + " are in use",
          "reserve enough before the forward pass, when all backward passes have run");
    pieces_.reserve(blocks);
  }

  /// Sets the capacity of an empty arena, in bytes. If the allocation fails, throws the exception
  /// of device_runtime<Backend>::allocate and restores the old capacity.
  void resize(std::size_t capacity) {
    // Releases the old memory first, because the memory may not hold both allocations.
    const std::size_t before = capacity_;
    release();
    dropbp::detail::call_or_undo([&] { make(capacity); },
                                 [&] {
                                   if (before > 0) make(before);
                                 });
  }

  /// Cuts a block of `bytes` bytes. Throws std::invalid_argument if the arena has no room.
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

  /// Releases a block that take() returned.
  void give_back(const void* block) noexcept {
    const auto begin = static_cast<std::size_t>(static_cast<const std::byte*>(block) - memory_);
    const auto ends_behind = [](std::size_t at, const Piece& piece) { return at < piece.end; };
    std::upper_bound(pieces_.begin(), pieces_.end(), begin, ends_behind)->alive = false;
    while (!pieces_.empty() && !pieces_.back().alive) pieces_.pop_back();
  }

  /// Returns the memory of an empty arena to the system.
  void release() noexcept {
    if (memory_ != nullptr) device_runtime<Backend>::release(memory_, capacity_);
    memory_ = nullptr;
    capacity_ = 0;
  }

 private:
  // A block and the alignment gap behind it. It begins at the end of the piece below.
  struct Piece {
    std::size_t end;  // where the next piece begins, in bytes
    bool alive;       // not released yet
  };

  void make(std::size_t capacity) {
    memory_ = static_cast<std::byte*>(device_runtime<Backend>::allocate(capacity));
    capacity_ = capacity;
    ++allocations_;
  }

  std::byte* memory_ = nullptr;
  std::size_t capacity_ = 0, allocations_ = 0;
  std::vector<Piece> pieces_;  // from the bottom; the highest one is in use
};

}  // namespace ops
DROPBP_NAMESPACE_END
