// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Helpers of softmaxes over rows: the exponentials of a row and its largest element.
#pragma once

#include <algorithm>
#include <limits>

#include "dropbp/kernels/cpu/simd.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops::detail {

// scores[i] = exp(scale * scores[i] - shift) for i < valid, and 0 for valid <= i < count. Returns
// the sum.
template <class T>
T exp_row(T* scores, Index valid, Index count, T scale, T shift) noexcept {
  double sum = 0;
  with_vectors<T>([&](auto n) DROPBP_FORCE_INLINE {
    Vector<T, n> part{};
    for_each_piece<n>(valid, [&](Index i, auto piece) DROPBP_FORCE_INLINE {
      // Unrounded, the largest of very large scores would differ from the shift, which is rounded.
      const auto scaled = rounded(load_piece(scores + i, piece, T(0)) * scale);
      const auto p = exp(scaled - shift);
      store_piece(scores + i, p, piece);
      part += load_piece(scores + i, piece, T(0));
    });
    sum = sum_of_lanes(part);
  });
  std::fill(scores + (std::max)(valid, Index(0)), scores + count, T(0));
  return static_cast<T>(sum);
}

template <class T>
T max_of_row(const T* row, Index count) noexcept {
  constexpr T lowest = -std::numeric_limits<T>::infinity();
  T result = lowest;
  with_vectors<T>([&](auto n) DROPBP_FORCE_INLINE {
    auto largest = Vector<T, n>::all(lowest);
    for_each_piece<n>(count, [&](Index i, auto piece) DROPBP_FORCE_INLINE {
      largest = larger(load_piece(row + i, piece, lowest), largest);
    });
    result = max_of_lanes(largest);
  });
  return result;
}

}  // namespace ops::detail
DROPBP_NAMESPACE_END
