// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Elementwise operations on the CPU. See ops/elementwise.hpp.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstring>

#include "dropbp/kernels/cpu/parallel.hpp"
#include "dropbp/kernels/kernels.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// See ops/elementwise.hpp.
template <std::floating_point T>
struct kernels<op::elementwise, T, Cpu> {
  /// to = from.
  static void copy(MatrixView<T> to, MatrixView<const T> from) {
    parallel_for(from.rows, from.columns, [&](Index i) {
      std::memcpy(to.row(i), from.row(i), static_cast<std::size_t>(from.columns) * sizeof(T));
    });
  }

  /// y = 0.
  static void set_zero(MatrixView<T> y) {
    parallel_for(y.rows, y.columns, [&](Index i) { std::fill_n(y.row(i), y.columns, T(0)); });
  }

  /// y += x.
  static void accumulate(MatrixView<T> y, MatrixView<const T> x) {
    parallel_for(y.rows, y.columns, [&](Index i) {
      for (Index j = 0; j < y.columns; ++j) y.row(i)[j] += x.row(i)[j];
    });
  }

  /// y *= factor, rounded to T.
  static void scale(MatrixView<T> y, double factor) {
    const T by = static_cast<T>(factor);
    parallel_for(y.rows, y.columns, [&](Index i) {
      for (Index j = 0; j < y.columns; ++j) y.row(i)[j] *= by;
    });
  }

  /// to = from, converted from float.
  static void convert_from(MatrixView<T> to, MatrixView<const float> from) {
    for (Index i = 0; i < to.rows; ++i) std::copy_n(from.row(i), to.columns, to.row(i));
  }

  /// to = from, rounded to float.
  static void convert_to(MatrixView<float> to, MatrixView<const T> from) {
    for (Index i = 0; i < to.rows; ++i)
      for (Index j = 0; j < to.columns; ++j) to.row(i)[j] = static_cast<float>(from.row(i)[j]);
  }
};

}  // namespace ops
DROPBP_NAMESPACE_END
