// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Memory of tensors: a pool that makes steady steps free of allocations, counts what is alive and
// can hold to a bound.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "dropbp/kernels/arena.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// What a block holds when it is handed out: whatever was there, or (for tests) NaN in every
/// element.
enum class PoolFill { nothing, nan };

template <class Backend>
class BasicMemoryBlock;

/// Blocks of memory, aligned to 64 bytes; a block given back serves the next request of its size. A
/// pool is a handle: copies share one pool, and blocks may outlive all of them. Safe to use from
/// several threads. After reserve() its blocks come from an arena (arena.hpp), whose room is then
/// the bound.
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
    state_->reserve(bytes + blocks * Arena::grain, blocks);
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
    return locked([](const State& s) { return s.shelves.reserved() + s.arena.capacity(); });
  }
  /// How often the system was asked for memory: constant in steady steps.
  std::size_t allocations() const {
    return locked([](const State& s) { return s.shelves.allocations() + s.arena.allocations(); });
  }

  /// Gives back to the system what no block uses: those that wait for reuse, and an arena that is
  /// empty; then blocks come from the system again, until reserve().
  void trim() {
    const std::lock_guard lock(state_->mutex);
    state_->shelves.release_waiting();
    if (state_->arena.empty()) state_->arena.release();
  }

 private:
  friend class BasicMemoryBlock<Backend>;
  using Arena = MemoryArena<Backend>;

  // Blocks that wait for reuse, by their rounded size.
  class Shelves {
   public:
    Shelves() = default;
    Shelves(const Shelves&) = delete;
    Shelves& operator=(const Shelves&) = delete;
    ~Shelves() { release_waiting(); }

    std::size_t reserved() const noexcept { return reserved_; }  // bytes, alive or waiting
    std::size_t allocations() const noexcept { return allocations_; }

    void* take(std::size_t bytes) {
      const std::size_t size = rounded(bytes);
      Shelf& shelf = shelves_[size];
      if (!shelf.waiting.empty()) {
        void* const block = shelf.waiting.back();
        shelf.waiting.pop_back();
        return block;
      }
      shelf.waiting.reserve(
          std::bit_ceil(shelf.blocks + 1));  // for all of them, so that giving back cannot fail
      void* const block = device_runtime<Backend>::allocate(size);
      ++shelf.blocks;
      reserved_ += size;
      ++allocations_;
      return block;
    }
    void give_back(void* block, std::size_t bytes) noexcept {
      shelves_.find(rounded(bytes))->second.waiting.push_back(block);  // has room: see take
    }
    void release_waiting() noexcept {
      for (auto& [size, shelf] : shelves_) {
        for (void* block : shelf.waiting) device_runtime<Backend>::release(block, size);
        reserved_ -= size * shelf.waiting.size();
        shelf.blocks -= shelf.waiting.size();
        shelf.waiting.clear();
      }
    }

   private:
    // The blocks of one size.
    struct Shelf {
      std::vector<void*> waiting;  // for reuse
      std::size_t blocks = 0;      // alive or waiting
    };
    std::map<std::size_t, Shelf> shelves_;
    std::size_t reserved_ = 0, allocations_ = 0;
  };

  struct State {
    mutable std::mutex mutex;
    Shelves shelves;
    Arena arena;
    std::size_t in_use = 0, peak = 0;
    PoolFill fill = PoolFill::nothing;

    void reserve(std::size_t capacity, std::size_t blocks) {
      if (capacity <= arena.capacity()) return;
      arena.prepare(capacity, blocks);
      shelves.release_waiting();
      arena.resize(capacity);
    }
    void* take(std::size_t bytes) {
      void* const block = arena.exists() ? arena.take(bytes) : shelves.take(bytes);
      in_use += bytes;
      peak = (std::max)(peak, in_use);
      return block;
    }
    void give_back(void* block, std::size_t bytes) noexcept {
      in_use -= bytes;
      if (arena.holds(block))
        arena.give_back(block);
      else
        shelves.give_back(block, bytes);
    }
  };

  // Eight sizes an octave: lengths that vary from step to step find a waiting block, at most an
  // eighth is wasted.
  static std::size_t rounded(std::size_t bytes) noexcept {
    const std::size_t step = bytes < 1024 ? Arena::grain : std::bit_floor(bytes) / 8;
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
    block.data_ = state_->take(bytes);
    block.state_ = state_;
    block.bytes_ = bytes;
  }
  if (state_->fill == PoolFill::nan)
    device_runtime<Backend>::fill(block.data_, 0xFF,
                                  bytes);  // all ones is a NaN in every floating type
  return block;
}

using MemoryPool = BasicMemoryPool<Cpu>;    ///< of host memory
using MemoryBlock = BasicMemoryBlock<Cpu>;  ///< of host memory

}  // namespace ops
DROPBP_NAMESPACE_END
