// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Memory of tensors: a pool that makes steady steps free of allocations, counts what is alive and
// can hold to a bound.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "dropbp/backend/cpu/host.hpp"
#include "dropbp/backend/device.hpp"
#include "dropbp/base/error.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// What a block holds when it is handed out: whatever was there, or (for tests) NaN in every
/// element.
enum class PoolFill { nothing, nan };

template <class Backend>
class BasicMemoryBlock;

/// Blocks of memory, aligned to 64 bytes; a block given back serves the next request of its size. A
/// pool is a handle: copies share one pool, and blocks may outlive all of them. Safe to use from
/// several threads. After reserve() it is an arena: one piece of memory from which blocks are cut
/// in order. What is given back is free again as soon as nothing behind it is in use, so that it
/// suits what backward passes free in reverse. An arena does not grow by itself: that it suffices
/// is what it was reserved for.
template <class Backend>
class BasicMemoryPool {
 public:
  /// An empty pool.
  explicit BasicMemoryPool(PoolFill fill = PoolFill::nothing) : state_(std::make_shared<State>()) {
    state_->fill = fill;
  }

  /// Throws std::bad_alloc and, where an arena has no room, std::invalid_argument.
  BasicMemoryBlock<Backend> allocate(std::size_t bytes);

  /// From now on all blocks come from an arena with room for `blocks` of them with `bytes`
  /// together; one that is as large stays. Throws std::logic_error where it would have to grow
  /// while blocks of it are alive, and what its memory throws where there is no room; both leave
  /// the arena as it was.
  void reserve(std::size_t bytes, std::size_t blocks) {
    const std::lock_guard lock(state_->mutex);
    state_->reserve(bytes + blocks * grain, blocks);
  }

  /// Bytes asked for by the blocks that are alive, without rounding: what a formula can predict.
  std::size_t bytes_in_use() const {
    return locked([](const State& s) { return s.in_use; });
  }
  /// The most that bytes_in_use() was since reset_peak().
  std::size_t peak_bytes() const {
    return locked([](const State& s) { return s.peak; });
  }
  /// The peak starts from what is in use now.
  void reset_peak() {
    const std::lock_guard lock(state_->mutex);
    state_->peak = state_->in_use;
  }
  /// Bytes taken from the system, alive or waiting for reuse.
  std::size_t reserved_bytes() const {
    return locked([](const State& s) { return s.reserved; });
  }
  /// How often the system was asked for memory: constant in steady steps.
  std::size_t allocations() const {
    return locked([](const State& s) { return s.allocations; });
  }

  /// Gives back to the system what no block uses: those that wait for reuse, and an arena that is
  /// empty; then blocks come from the system again, until reserve().
  void trim() {
    const std::lock_guard lock(state_->mutex);
    state_->release_waiting();
    if (state_->arena.pieces.empty()) state_->release_arena();
  }

 private:
  friend class BasicMemoryBlock<Backend>;
  using Memory = device_runtime<Backend>;
  static constexpr std::size_t grain = 64;

  // One piece of memory, used as a stack.
  struct Arena {
    /// From the end of the one below.
    struct Piece {
      std::size_t end;  ///< where the next one begins
      bool alive;       ///< not given back yet
    };
    std::byte* memory = nullptr;
    std::size_t capacity = 0;
    std::vector<Piece> pieces;  // from the bottom; the highest is alive

    std::size_t used() const noexcept { return pieces.empty() ? 0 : pieces.back().end; }
    bool holds(const void* block) const noexcept {
      const auto* at = static_cast<const std::byte*>(block);
      return memory != nullptr && !std::less<>{}(at, memory) &&
             std::less<>{}(at, memory + capacity);
    }
    // Null where there is no room.
    void* take(std::size_t bytes) {
      const std::size_t begin = used(), size = (bytes + grain - 1) / grain * grain;
      if (bytes > capacity || size > capacity - begin) return nullptr;
      pieces.push_back({begin + size, true});
      return memory + begin;
    }
    void give_back(const void* block) noexcept {
      const auto begin = static_cast<std::size_t>(static_cast<const std::byte*>(block) - memory);
      const auto ends_behind = [](std::size_t at, const Piece& piece) { return at < piece.end; };
      std::upper_bound(pieces.begin(), pieces.end(), begin, ends_behind)->alive = false;
      while (!pieces.empty() && !pieces.back().alive) pieces.pop_back();
    }
  };

  struct State {
    mutable std::mutex mutex;
    /// The blocks of one size.
    struct Shelf {
      std::vector<void*> waiting;  ///< for reuse
      std::size_t blocks = 0;      ///< alive or waiting
    };
    std::map<std::size_t, Shelf> shelves;  // by rounded size
    Arena arena;
    std::size_t in_use = 0, peak = 0, reserved = 0, allocations = 0;
    PoolFill fill = PoolFill::nothing;

    void reserve(std::size_t capacity, std::size_t blocks) {
      if (capacity <= arena.capacity) return;
      if (!arena.pieces.empty())
        dropbp::detail::throw_order(
            "an arena must be empty to grow to " + std::to_string(capacity) + " bytes",
            std::to_string(arena.used()) + " of its " + std::to_string(arena.capacity) +
                " are in use",
            "reserve enough before the forward pass, when all backward passes have run");
      arena.pieces.reserve(blocks);
      // The smaller one first: both together may be more than there is.
      const std::size_t before = arena.capacity;
      release_waiting();
      release_arena();
      try {
        make_arena(capacity);
      } catch (...) {
        if (before > 0) make_arena(before);
        throw;
      }
    }
    void make_arena(std::size_t capacity) {
      arena.memory = static_cast<std::byte*>(Memory::allocate(capacity));
      arena.capacity = capacity;
      reserved += capacity;
      ++allocations;
    }
    void release_arena() noexcept {
      if (arena.memory != nullptr) Memory::release(arena.memory, arena.capacity);
      reserved -= arena.capacity;
      arena.memory = nullptr;
      arena.capacity = 0;
    }
    [[noreturn]] void throw_full(std::size_t bytes) const {
      dropbp::detail::throw_invalid(
          "an arena must have room for all blocks that are alive at once",
          std::to_string(bytes) + " bytes were asked for with " + std::to_string(arena.used()) +
              " of its " + std::to_string(arena.capacity) + " in use",
          "reserve more, keep fewer branches, or lower batch or sequence");
    }
    // From the shelves.
    void* take(std::size_t bytes) {
      const std::size_t size = rounded(bytes);
      Shelf& shelf = shelves[size];
      if (!shelf.waiting.empty()) {
        void* const block = shelf.waiting.back();
        shelf.waiting.pop_back();
        return block;
      }
      shelf.waiting.reserve(
          std::bit_ceil(shelf.blocks + 1));  // for all of them, so that giving back cannot fail
      void* const block = Memory::allocate(size);
      ++shelf.blocks;
      reserved += size;
      ++allocations;
      return block;
    }
    void give_back(void* block, std::size_t bytes) noexcept {
      in_use -= bytes;
      if (arena.holds(block))
        arena.give_back(block);
      else
        shelves.find(rounded(bytes))->second.waiting.push_back(block);  // has room: see allocate
    }
    void release_waiting() noexcept {
      for (auto& [size, shelf] : shelves) {
        for (void* block : shelf.waiting) Memory::release(block, size);
        reserved -= size * shelf.waiting.size();
        shelf.blocks -= shelf.waiting.size();
        shelf.waiting.clear();
      }
    }
    ~State() {
      release_waiting();
      release_arena();
    }
  };

  // Eight sizes an octave: lengths that vary from step to step find a waiting block, at most an
  // eighth is wasted.
  static std::size_t rounded(std::size_t bytes) noexcept {
    const std::size_t step = bytes < 1024 ? grain : std::bit_floor(bytes) / 8;
    return (bytes + step - 1) / step * step;
  }

  template <class F>
  std::size_t locked(const F& f) const {
    const std::lock_guard lock(state_->mutex);
    return f(*state_);
  }

  std::shared_ptr<State> state_;
};

/// A piece of memory that goes back to its pool, or to the heap when it came from there. Moved,
/// never copied.
template <class Backend>
class BasicMemoryBlock {
 public:
  /// Of no bytes.
  BasicMemoryBlock() = default;
  /// From the plain heap.
  explicit BasicMemoryBlock(std::size_t bytes) : bytes_(bytes) {
    if (bytes > 0) data_ = device_runtime<Backend>::allocate(bytes);
  }
  /// Leaves the other one empty.
  BasicMemoryBlock(BasicMemoryBlock&& other) noexcept
      : state_(std::move(other.state_)),
        data_(std::exchange(other.data_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)) {}
  /// Leaves the other one empty.
  BasicMemoryBlock& operator=(BasicMemoryBlock&& other) noexcept {
    BasicMemoryBlock old(std::move(*this));
    state_ = std::move(other.state_);
    data_ = std::exchange(other.data_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
    return *this;
  }
  ~BasicMemoryBlock() {
    if (data_ == nullptr) return;
    if (state_ == nullptr) {
      device_runtime<Backend>::release(data_, bytes_);
      return;
    }
    const std::lock_guard lock(state_->mutex);
    state_->give_back(data_, bytes_);
  }

  void* data() const noexcept { return data_; }          ///< null for a block of no bytes
  std::size_t bytes() const noexcept { return bytes_; }  ///< as asked for

 private:
  friend class BasicMemoryPool<Backend>;
  std::shared_ptr<typename BasicMemoryPool<Backend>::State> state_;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

template <class Backend>
BasicMemoryBlock<Backend> BasicMemoryPool<Backend>::allocate(std::size_t bytes) {
  BasicMemoryBlock<Backend> block;
  if (bytes == 0) return block;
  {
    const std::lock_guard lock(state_->mutex);
    if (state_->arena.memory != nullptr) {
      block.data_ = state_->arena.take(bytes);
      if (block.data_ == nullptr) state_->throw_full(bytes);
    } else {
      block.data_ = state_->take(bytes);
    }
    state_->in_use += bytes;
    if (state_->in_use > state_->peak) state_->peak = state_->in_use;
    block.state_ = state_;
    block.bytes_ = bytes;
  }
  if (state_->fill == PoolFill::nan)
    Memory::fill(block.data_, 0xFF, bytes);  // all ones is a NaN in every floating type
  return block;
}

using MemoryPool = BasicMemoryPool<Cpu>;    ///< of host memory
using MemoryBlock = BasicMemoryBlock<Cpu>;  ///< of host memory

}  // namespace ops
DROPBP_NAMESPACE_END
