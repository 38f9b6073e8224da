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
  Vector<T> sum{};
  for_each_vector<T>(valid, [&](Index i, auto piece) {
    const auto p = exp<T>(load_piece(scores + i, piece, T(0)) * scale - shift);
    store_piece<T>(scores + i, p, piece);
    sum += load_piece(scores + i, piece, T(0));
  });
  std::fill(scores + (std::max)(valid, Index(0)), scores + count, T(0));
  return static_cast<T>(sum_of_lanes<T>(sum));
}

template <class T>
T max_of_row(const T* row, Index count) noexcept {
  constexpr T lowest = -std::numeric_limits<T>::infinity();
  auto largest = Vector<T>::all(lowest);
  for_each_vector<T>(count, [&](Index i, auto piece) {
    largest = larger(load_piece(row + i, piece, lowest), largest);
  });
  return max_of_lanes<T>(largest);
}

}  // namespace ops::detail
DROPBP_NAMESPACE_END
