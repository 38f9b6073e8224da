// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Magnitudes of a weight's rows on the CPU. See ops/dora.hpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>

#include "dropbp/kernels/cpu/parallel.hpp"
#include "dropbp/kernels/kernels.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// Magnitudes m and norms n of `rows` rows. A row of zeros has no direction: its factor m / n is 0.
template <std::floating_point T>
struct kernels<op::dora, T, Cpu> {
  /// n [rows] = the Euclidean norm of each row, summed in double.
  static void norms(T* n, MatrixView<const T> rows) {
    parallel_for(rows.rows, rows.columns, [&](Index i) {
      double sum = 0.0;
      for (Index j = 0; j < rows.columns; ++j) {
        const auto x = static_cast<double>(rows.row(i)[j]);
        sum += x * x;
      }
      n[i] = static_cast<T>(std::sqrt(sum));
    });
  }

  /// Row i of the weight *= m[i] / n[i].
  static void scale_rows(MatrixView<T> weight, const T* m, const T* n) {
    parallel_for(weight.rows, weight.columns, [&](Index i) {
      const T factor = ratio(m[i], n[i]);
      for (Index j = 0; j < weight.columns; ++j) weight.row(i)[j] *= factor;
    });
  }

  /// Column j of y *= m[j] / n[j].
  static void scale_columns(MatrixView<T> y, const T* m, const T* n) {
    for_each_block(y, [&](Index first, Index count) {
      T factors[block];
      for (Index j = 0; j < count; ++j) factors[j] = ratio(m[first + j], n[first + j]);
      for (Index i = 0; i < y.rows; ++i) {
        T* const row = y.row(i) + first;
        for (Index j = 0; j < count; ++j) row[j] *= factors[j];
      }
    });
  }

  /// grad [outputs] (=|+=) the gradient of m: the sums over the rows, in double and in their order,
  /// of grad_output times t, over n; t are the outputs before they are multiplied.
  static void gradient(T* grad, Accumulate mode, MatrixView<const T> grad_output,
                       MatrixView<const T> t, const T* n) {
    for_each_block(t, [&](Index first, Index count) {
      double sums[block] = {};
      for (Index i = 0; i < t.rows; ++i) {
        const T *const g = grad_output.row(i) + first, *const row = t.row(i) + first;
        for (Index j = 0; j < count; ++j)
          sums[j] += static_cast<double>(g[j]) * static_cast<double>(row[j]);
      }
      for (Index j = 0; j < count; ++j) {
        const auto norm = static_cast<double>(n[first + j]);
        const double before = mode == Accumulate::add ? static_cast<double>(grad[first + j]) : 0.0;
        grad[first + j] = static_cast<T>(before + (norm > 0.0 ? sums[j] / norm : 0.0));
      }
    });
  }

 private:
  static constexpr Index block = 64;  // columns of one thread at a time

  static T ratio(T m, T n) { return n > T(0) ? m / n : T(0); }

  // Calls f(first column, number of columns).
  template <class F>
  static void for_each_block(MatrixView<const T> y, const F& f) {
    parallel_for((y.columns + block - 1) / block, block * y.rows,
                 [&](Index at) { f(at * block, (std::min)(block, y.columns - at * block)); });
  }
};

}  // namespace ops
DROPBP_NAMESPACE_END
