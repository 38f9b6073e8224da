// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Scratch memory of one thread, reused from call to call. Its size is bounded by constants and
// head_size, never by the batch; for BFloat16, by a float copy of the result of one operation.
#pragma once

#include <cstddef>

#include "dropbp/kernels/index.hpp"
#include "dropbp/kernels/memory.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops::detail {

/// The purpose of scratch memory. Memory for different purposes may be used at the same time in one
/// thread.
enum class Scratch { packed_a, packed_b, sums, attention, rounded, expanded, wide, count };

/// Memory for `elements` elements of T, valid until the thread's next call with the same purpose.
template <class T>
T* scratch(Scratch use, Index elements) {
  thread_local MemoryBlock blocks[static_cast<std::size_t>(Scratch::count)];
  MemoryBlock& block = blocks[static_cast<std::size_t>(use)];
  const std::size_t bytes = static_cast<std::size_t>(elements) * sizeof(T);
  if (block.bytes() < bytes) {
    block = MemoryBlock();  // releases the old memory first
    block = MemoryBlock(bytes);
  }
  return static_cast<T*>(block.data());
}

}  // namespace ops::detail
DROPBP_NAMESPACE_END
