// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Scratch memory of one thread, kept from call to call. Bounded by constants and head_size, never
// by the batch.
#pragma once

#include <cstddef>

#include "dropbp/kernels/index.hpp"
#include "dropbp/kernels/memory.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops::detail {

/// Who uses it: users that are active at the same time in one thread need different ones.
enum class Scratch { packed_a, packed_b, attention, count };

/// Memory for `elements` of T, until the thread asks for the same one again.
template <class T>
T* scratch(Scratch use, Index elements) {
  thread_local MemoryBlock blocks[static_cast<std::size_t>(Scratch::count)];
  MemoryBlock& block = blocks[static_cast<std::size_t>(use)];
  const std::size_t bytes = static_cast<std::size_t>(elements) * sizeof(T);
  if (block.bytes() < bytes) {
    block = MemoryBlock();  // frees before it allocates
    block = MemoryBlock(bytes);
  }
  return static_cast<T*>(block.data());
}

}  // namespace ops::detail
DROPBP_NAMESPACE_END
