// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Copies to a device that do not wait: token ids, targets and tables of a step. They pass through a
// ring of pinned memory, which the device reads when its stream comes to the copy.
#pragma once

#include <cstddef>
#include <cstring>
#include <deque>
#include <mutex>
#include <utility>

#include "dropbp/base/config.hpp"

DROPBP_NAMESPACE_BEGIN
namespace detail {

// `Device` has
//   static void* allocate_pinned(std::size_t bytes), which throws, and release_pinned(void*)
//   static void copy_pinned(void* to, const void* pinned, std::size_t bytes)
//       in the order of the current stream, without waiting
//   class Event
//       a point of the current stream; void wait() const
template <class Device>
class StagingRing {
 public:
  explicit StagingRing(std::size_t capacity) : capacity_(capacity / grain * grain) {}
  StagingRing(const StagingRing&) = delete;
  StagingRing& operator=(const StagingRing&) = delete;
  ~StagingRing() {
    if (memory_ != nullptr) Device::release_pinned(memory_);
  }

  // The largest copy, so that one does not wait for most others.
  std::size_t limit() const noexcept { return capacity_ / 4; }

  // Copies at most limit() bytes. Waits only if the ring is full of copies that have not run.
  void copy(void* to, const void* from, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    if (memory_ == nullptr) memory_ = static_cast<std::byte*>(Device::allocate_pinned(capacity_));
    const std::size_t size = (bytes + grain - 1) / grain * grain;
    if (size > capacity_ - head_) {
      free_up_to(capacity_);
      head_ = 0;
    }
    free_up_to(head_ + size);
    std::memcpy(memory_ + head_, from, bytes);
    Device::copy_pinned(to, memory_ + head_, bytes);
    copies_.push_back({head_, typename Device::Event()});
    head_ += size;
  }

 private:
  static constexpr std::size_t grain = 256;
  struct Copy {
    std::size_t begin;
    typename Device::Event done;
  };

  // Waits for the copies that begin in [head_, end). They are the oldest ones.
  void free_up_to(std::size_t end) {
    while (!copies_.empty() && copies_.front().begin >= head_ && copies_.front().begin < end) {
      copies_.front().done.wait();
      copies_.pop_front();
    }
  }

  std::mutex mutex_;
  std::size_t capacity_, head_ = 0;
  std::byte* memory_ = nullptr;
  std::deque<Copy> copies_;  // in the order of the ring
};

}  // namespace detail
DROPBP_NAMESPACE_END
