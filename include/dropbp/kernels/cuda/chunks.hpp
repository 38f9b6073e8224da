// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Work on many tensors in one launch: a table in device memory says where each begins; blocks take
// chunks of a fixed size, so that sums have a fixed order.
#pragma once

#include "dropbp/kernels/cuda/backend.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {
namespace detail {

// The last segment that begins at this chunk or before.
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
