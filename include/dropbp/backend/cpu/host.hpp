// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Host memory through the functions of a device: what is written over device_runtime runs on the
// host as well.
#pragma once

#include <cstddef>
#include <cstring>
#include <new>
#include <string>

#include "dropbp/backend/device.hpp"

DROPBP_NAMESPACE_BEGIN

/// See the primary template. Memory is aligned to 64 bytes; nothing ever waits.
template <>
struct device_runtime<Cpu> {
  static constexpr std::align_val_t alignment{64};  ///< of all memory
  /// Throws std::bad_alloc.
  static void* allocate(std::size_t bytes) { return ::operator new(bytes, alignment); }
  /// Gives back what allocate gave.
  static void release(void* memory, std::size_t) noexcept { ::operator delete(memory, alignment); }
  /// memcpy; null for 0 bytes is allowed, here and below.
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
  static void synchronize() noexcept {}                    ///< nothing is on its way
  static void require_no_capture(const char*) noexcept {}  ///< nothing is recorded
  static std::string unavailable_reason() { return {}; }   ///< the host is always there
};

DROPBP_NAMESPACE_END
