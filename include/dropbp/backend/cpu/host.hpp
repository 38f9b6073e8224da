// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Host memory with the functions of a device, so that code written for device_runtime also runs on
// the host.
#pragma once

#include <cstddef>
#include <cstring>
#include <new>
#include <string>

#include "dropbp/backend/device.hpp"
#include "dropbp/steady_clock.hpp"

DROPBP_NAMESPACE_BEGIN

/// See the primary template. Memory is aligned to 64 bytes. No function waits.
template <>
struct device_runtime<Cpu> {
  static constexpr std::align_val_t alignment{64};  ///< of all blocks, in bytes
  /// Throws std::bad_alloc.
  static void* allocate(std::size_t bytes) { return ::operator new(bytes, alignment); }
  /// Releases memory of allocate().
  static void release(void* memory, std::size_t) noexcept { ::operator delete(memory, alignment); }
  /// memcpy. Null pointers are allowed for 0 bytes, in all functions below too.
  static void copy(void* to, const void* from, std::size_t bytes) noexcept {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }
  /// copy().
  static void copy_to_device(void* to, const void* from, std::size_t bytes) noexcept {
    copy(to, from, bytes);
  }
  /// copy().
  static void copy_to_host(void* to, const void* from, std::size_t bytes) noexcept {
    copy(to, from, bytes);
  }
  /// memset.
  static void fill(void* memory, int byte, std::size_t bytes) noexcept {
    if (bytes > 0) std::memset(memory, byte, bytes);
  }
  /// A time of the host's clock.
  class Moment {
   public:
    /// Both are in the past.
    double seconds_since(const Moment& earlier) const noexcept { return at_ - earlier.at_; }

   private:
    double at_ = SteadyClock{}();
  };
  static void synchronize() noexcept {}                    ///< no work is pending
  static void require_no_capture(const char*) noexcept {}  ///< the host captures no graphs
  static std::string unavailable_reason() { return {}; }   ///< the host is always available
};

DROPBP_NAMESPACE_END
