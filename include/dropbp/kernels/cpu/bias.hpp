// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The bias of a linear map on the CPU. See ops/bias.hpp.
#pragma once

#include <algorithm>
#include <concepts>

#include "dropbp/kernels/cpu/parallel.hpp"
#include "dropbp/kernels/kernels.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// See ops/bias.hpp.
template <std::floating_point T>
struct kernels<op::bias, T, Cpu> {
  /// Each row of y += b.
  static void add(MatrixView<T> y, const T* b) {
    parallel_for(y.rows, y.columns, [&](Index i) {
      for (Index j = 0; j < y.columns; ++j) y.row(i)[j] += b[j];
    });
  }

  /// grad [columns] (=|+=) the sum of the rows of grad_output, in their order and in double.
  static void gradient(T* grad, Accumulate mode, MatrixView<const T> grad_output) {
    const Index blocks = (grad_output.columns + block - 1) / block;
    parallel_for(blocks, block * grad_output.rows, [&](Index at) {
      const Index first = at * block, count = (std::min)(block, grad_output.columns - first);
      double sums[block] = {};
      for (Index i = 0; i < grad_output.rows; ++i) {
        const T* const row = grad_output.row(i) + first;
        for (Index j = 0; j < count; ++j) sums[j] += static_cast<double>(row[j]);
      }
      for (Index j = 0; j < count; ++j) {
        const double before = mode == Accumulate::add ? static_cast<double>(grad[first + j]) : 0.0;
        grad[first + j] = static_cast<T>(before + sums[j]);
      }
    });
  }

 private:
  static constexpr Index block = 64;  // columns whose sums one thread keeps
};

}  // namespace ops
DROPBP_NAMESPACE_END
