// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Memory pools of tensors. A pool makes steady steps free of system allocations, counts the bytes
// in use and can enforce an upper bound.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "dropbp/kernels/arena.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// Initial content of a block: undefined, or NaN in every element (for tests).
enum class PoolFill { nothing, nan };

template <class Backend>
class BasicMemoryBlock;

namespace detail {

// Orders the streams that take and release the blocks of a pool, so that no stream writes a block
// that another one still reads. The host needs no order.
template <class Backend>
class PoolOrder {
 public:
  void take() noexcept {}
  void give_back() noexcept {}
};

template <DeviceBackend Backend>
class PoolOrder<Backend> {
  using Device = device_runtime<Backend>;

 public:
  // Throws, and changes nothing, on another device or if a stream cannot be ordered.
  void take() {
    const auto now = Device::place();
    if (unordered_)
      dropbp::detail::throw_order(
          "the streams that use a memory pool must be able to wait for each other",
          "a block was released in a stream that could not, as one that is captured into a graph",
          "release each block in the stream that took it");
    if (last_ && last_->device != now.device)
      dropbp::detail::throw_invalid("a memory pool has blocks of one device",
                                    "those of this one are of device " +
                                        std::to_string(last_->device) + ", and device " +
                                        std::to_string(now.device) + " is current",
                                    "make a pool for each device");
    if (last_ && *last_ != now) Device::follow(*last_);
    last_ = now;
  }
  void give_back() noexcept {
    try {
      const auto now = Device::place();
      if (now == *last_) return;
      if (now.device == last_->device) {
        Device::follow(*last_);
        last_ = now;
      } else {  // its streams are no order for this block
        const typename Device::PlaceScope scope(*last_);
        Device::synchronize();
      }
    } catch (...) {
      unordered_ = true;
    }
  }

 private:
  std::optional<typename Device::Place> last_;  // whose stream all earlier work is ordered before
  bool unordered_ = false;
};

}  // namespace detail

/// A pool of memory blocks, aligned to 64 bytes. A released block serves later requests of the same
/// rounded size. A pool object is a handle: copies share one pool, and blocks may outlive all
/// handles. Safe to use from several threads. On a device, work of one stream may use a block after
/// another stream has released it: the streams that use a pool are ordered, by waits on the device,
/// whenever the current one changes; so give each stream that should run beside others a pool of
/// its own. After reserve() all blocks come from an arena
/// (arena.hpp), whose capacity is an upper bound.
template <class Backend>
class BasicMemoryPool {
 public:
  /// An empty pool.
  explicit BasicMemoryPool(PoolFill fill = PoolFill::nothing) : state_(std::make_shared<State>()) {
    state_->fill = fill;
  }

  /// A block of `bytes` bytes. Throws std::bad_alloc (on a device std::runtime_error) if the system
  /// has no memory, and std::invalid_argument if the arena has no room or the current device is not
  /// the one that the pool's blocks are of.
  BasicMemoryBlock<Backend> allocate(std::size_t bytes);

  /// Makes an arena with room for `blocks` blocks of `bytes` bytes in total; all later blocks come
  /// from the arena. An arena that is large enough stays. Throws std::logic_error if the arena has
  /// to grow while one of its blocks is in use, and the exception of
  /// device_runtime<Backend>::allocate if there is no memory; in both cases the arena keeps its
  /// capacity.
  void reserve(std::size_t bytes, std::size_t blocks) {
    const std::lock_guard lock(state_->mutex);
    state_->reserve(bytes + blocks * Arena::grain, blocks);
  }

  /// Requested bytes of all blocks in use, without rounding, so that a formula can predict the
  /// number.
  std::size_t bytes_in_use() const {
    return locked([](const State& s) { return s.in_use; });
  }
  /// The maximum of bytes_in_use() since reset_peak().
  std::size_t peak_bytes() const {
    return locked([](const State& s) { return s.peak; });
  }
  /// Sets the peak to the bytes in use now.
  void reset_peak() {
    const std::lock_guard lock(state_->mutex);
    state_->peak = state_->in_use;
  }
  /// Bytes that the pool holds from the system, in use or waiting for reuse.
  std::size_t reserved_bytes() const {
    return locked([](const State& s) { return s.shelves.reserved() + s.arena.capacity(); });
  }
  /// Number of system allocations so far; constant in steady steps.
  std::size_t allocations() const {
    return locked([](const State& s) { return s.shelves.allocations() + s.arena.allocations(); });
  }

  /// Returns unused memory to the system: blocks that wait for reuse, and an arena with no block in
  /// use. After the arena is released, blocks come from the system until the next reserve().
  void trim() {
    const std::lock_guard lock(state_->mutex);
    state_->shelves.release_waiting();
    if (state_->arena.empty()) state_->arena.release();
  }

 private:
  friend class BasicMemoryBlock<Backend>;
  using Arena = MemoryArena<Backend>;

  // Blocks that wait for reuse, grouped by rounded size.
  class Shelves {
   public:
    Shelves() = default;
    Shelves(const Shelves&) = delete;
    Shelves& operator=(const Shelves&) = delete;
    ~Shelves() { release_waiting(); }

    std::size_t reserved() const noexcept { return reserved_; }  // bytes, in use or waiting
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
          std::bit_ceil(shelf.blocks + 1));  // for all blocks, so that give_back cannot fail
      void* const block = device_runtime<Backend>::allocate(size);
      ++shelf.blocks;
      reserved_ += size;
      ++allocations_;
      return block;
    }
    void give_back(void* block, std::size_t bytes) noexcept {
      shelves_.find(rounded(bytes))->second.waiting.push_back(block);  // take reserved the capacity
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
    // All blocks of one size.
    struct Shelf {
      std::vector<void*> waiting;  // for reuse
      std::size_t blocks = 0;      // in use or waiting
    };
    std::map<std::size_t, Shelf> shelves_;
    std::size_t reserved_ = 0, allocations_ = 0;
  };

  struct State {
    mutable std::mutex mutex;
    Shelves shelves;
    Arena arena;
    detail::PoolOrder<Backend> order;
    std::size_t in_use = 0, peak = 0;
    PoolFill fill = PoolFill::nothing;

    void reserve(std::size_t capacity, std::size_t blocks) {
      if (capacity <= arena.capacity()) return;
      arena.prepare(capacity, blocks);
      shelves.release_waiting();
      arena.resize(capacity);
    }
    void* take(std::size_t bytes) {
      order.take();
      void* const block = arena.exists() ? arena.take(bytes) : shelves.take(bytes);
      in_use += bytes;
      peak = (std::max)(peak, in_use);
      return block;
    }
    void give_back(void* block, std::size_t bytes) noexcept {
      order.give_back();
      in_use -= bytes;
      if (arena.holds(block))
        arena.give_back(block);
      else
        shelves.give_back(block, bytes);
    }
  };

  // Eight sizes per power of two: requests whose sizes vary from step to step reuse waiting blocks,
  // and rounding wastes at most an eighth.
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

/// Owns a piece of memory, and returns it to its pool or to the system. Movable, not copyable.
template <class Backend>
class BasicMemoryBlock {
 public:
  /// An empty block.
  BasicMemoryBlock() = default;
  /// Takes memory from the system. Throws what device_runtime<Backend>::allocate throws.
  explicit BasicMemoryBlock(std::size_t bytes) : bytes_(bytes) {
    if (bytes > 0) data_ = device_runtime<Backend>::allocate(bytes);
  }
  /// Leaves `other` empty.
  BasicMemoryBlock(BasicMemoryBlock&& other) noexcept
      : state_(std::move(other.state_)),
        data_(std::exchange(other.data_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)) {}
  /// Leaves `other` empty.
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

  void* data() const noexcept { return data_; }          ///< null for an empty block
  std::size_t bytes() const noexcept { return bytes_; }  ///< requested size

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
                                  bytes);  // all bits 1 is NaN in every floating-point type
  return block;
}

using MemoryPool = BasicMemoryPool<Cpu>;    ///< of host memory
using MemoryBlock = BasicMemoryBlock<Cpu>;  ///< of host memory

}  // namespace ops
DROPBP_NAMESPACE_END
