// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Work on many tensors in one launch. A table in device memory holds the beginning of each tensor.
// Blocks take chunks of a fixed size, so sums have a fixed order.
#pragma once

#include "dropbp/kernels/cuda/backend.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {
namespace detail {

// The last segment that begins at or before `chunk`.
template <class Segment>
DROPBP_DEVICE const Segment& segment_of(const Segment* segments, Index count, Index chunk) {
  Index low = 0, high = count;
  while (high - low > 1) {
    const Index middle = (low + high) / 2;
    if (segments[middle].first_chunk <= chunk)
      low = middle;
    else
      high = middle;
  }
  return segments[low];
}

}  // namespace detail
}  // namespace cuda
DROPBP_NAMESPACE_END
