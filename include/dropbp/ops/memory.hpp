// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Memory of tensors: a pool that makes steady steps free of allocations and counts what is alive.
#pragma once

#include <bit>
#include <cstddef>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "dropbp/base/error.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// What a block holds when it is handed out: whatever was there, or (for tests) NaN in every element.
enum class PoolFill { nothing, nan };

class MemoryBlock;

/// Blocks of memory, aligned to 64 bytes; a block given back serves the next request of its size. A pool is a handle:
/// copies share one pool, and blocks may outlive all of them. Safe to use from several threads.
class MemoryPool {
 public:
  /// An empty pool.
  explicit MemoryPool(PoolFill fill = PoolFill::nothing) : state_(std::make_shared<State>()) { state_->fill = fill; }

  /// Throws std::bad_alloc.
  MemoryBlock allocate(std::size_t bytes);

  /// Bytes asked for by the blocks that are alive, without rounding: what a formula can predict.
  std::size_t bytes_in_use() const { return locked([](const State& s) { return s.in_use; }); }
  /// The most that bytes_in_use() was since reset_peak().
  std::size_t peak_bytes() const { return locked([](const State& s) { return s.peak; }); }
  /// The peak starts from what is in use now.
  void reset_peak() {
    const std::lock_guard lock(state_->mutex);
    state_->peak = state_->in_use;
  }
  /// Bytes taken from the system, alive or waiting for reuse.
  std::size_t reserved_bytes() const { return locked([](const State& s) { return s.reserved; }); }
  /// How often the system was asked for memory: constant in steady steps.
  std::size_t allocations() const { return locked([](const State& s) { return s.allocations; }); }

  /// Gives the blocks that wait for reuse back to the system.
  void trim() {
    const std::lock_guard lock(state_->mutex);
    state_->release_waiting();
  }

 private:
  friend class MemoryBlock;
  static constexpr std::align_val_t alignment{64};

  struct State {
    mutable std::mutex mutex;
    /// The blocks of one size.
    struct Shelf {
      std::vector<void*> waiting;  ///< for reuse
      std::size_t blocks = 0;      ///< alive or waiting
    };
    std::map<std::size_t, Shelf> shelves;  // by rounded size
    std::size_t in_use = 0, peak = 0, reserved = 0, allocations = 0;
    PoolFill fill = PoolFill::nothing;

    void release_waiting() noexcept {
      for (auto& [size, shelf] : shelves) {
        for (void* block : shelf.waiting) ::operator delete(block, alignment);
        reserved -= size * shelf.waiting.size();
        shelf.blocks -= shelf.waiting.size();
        shelf.waiting.clear();
      }
    }
    ~State() { release_waiting(); }
  };

  // Eight sizes an octave: lengths that vary from step to step find a waiting block, at most an eighth is wasted.
  static std::size_t rounded(std::size_t bytes) noexcept {
    const std::size_t grain = bytes < 1024 ? 64 : std::bit_floor(bytes) / 8;
    return (bytes + grain - 1) / grain * grain;
  }

  template <class F>
  std::size_t locked(const F& f) const {
    const std::lock_guard lock(state_->mutex);
    return f(*state_);
  }

  std::shared_ptr<State> state_;
};

/// A piece of memory that goes back to its pool, or to the heap when it came from there. Moved, never copied.
class MemoryBlock {
 public:
  /// Of no bytes.
  MemoryBlock() = default;
  /// From the plain heap.
  explicit MemoryBlock(std::size_t bytes) : bytes_(bytes) {
    if (bytes > 0) data_ = ::operator new(bytes, MemoryPool::alignment);
  }
  /// Leaves the other one empty.
  MemoryBlock(MemoryBlock&& other) noexcept
      : state_(std::move(other.state_)), data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  /// Leaves the other one empty.
  MemoryBlock& operator=(MemoryBlock&& other) noexcept {
    MemoryBlock old(std::move(*this));
    state_ = std::move(other.state_);
    data_ = std::exchange(other.data_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
    return *this;
  }
  ~MemoryBlock() {
    if (data_ == nullptr) return;
    if (state_ == nullptr) {
      ::operator delete(data_, MemoryPool::alignment);
      return;
    }
    const std::lock_guard lock(state_->mutex);
    state_->in_use -= bytes_;
    state_->shelves.find(MemoryPool::rounded(bytes_))->second.waiting.push_back(data_);  // has room: see allocate
  }

  void* data() const noexcept { return data_; }          ///< null for a block of no bytes
  std::size_t bytes() const noexcept { return bytes_; }  ///< as asked for

 private:
  friend class MemoryPool;
  std::shared_ptr<MemoryPool::State> state_;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

inline MemoryBlock MemoryPool::allocate(std::size_t bytes) {
  MemoryBlock block;
  if (bytes == 0) return block;
  {
    const std::lock_guard lock(state_->mutex);
    const std::size_t size = rounded(bytes);
    State::Shelf& shelf = state_->shelves[size];
    if (!shelf.waiting.empty()) {
      block.data_ = shelf.waiting.back();
      shelf.waiting.pop_back();
    } else {
      shelf.waiting.reserve(std::bit_ceil(shelf.blocks + 1));  // for all of them, so that giving back cannot fail
      block.data_ = ::operator new(size, alignment);
      ++shelf.blocks;
      state_->reserved += size;
      ++state_->allocations;
    }
    state_->in_use += bytes;
    if (state_->in_use > state_->peak) state_->peak = state_->in_use;
    block.state_ = state_;
    block.bytes_ = bytes;
  }
  if (state_->fill == PoolFill::nan) std::memset(block.data_, 0xFF, bytes);  // all ones is a NaN in float and double
  return block;
}

}  // namespace ops
DROPBP_NAMESPACE_END
