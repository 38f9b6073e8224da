// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The cross-entropy of rows of logits on the CPU, and its gradient in place of the logits. See
// ops/cross_entropy.hpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>

#include "dropbp/kernels/cpu/elementwise.hpp"
#include "dropbp/kernels/cpu/parallel.hpp"
#include "dropbp/kernels/cpu/scratch.hpp"
#include "dropbp/kernels/cpu/softmax.hpp"
#include "dropbp/kernels/kernels.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// See ops/cross_entropy.hpp.
template <std::floating_point T>
struct kernels<op::cross_entropy, T, Cpu> {
  using Loss = double;  ///< of one row

  /// losses [rows] = the cross-entropy of each row; 0 where the target is `ignored`. With `keep`,
  /// replaces the logits [rows, vocabulary] by the gradient of sum(losses) / divisor.
  static void run(MatrixView<T> logits, Loss* losses, const std::int32_t* targets,
                  std::int32_t ignored, double divisor, bool keep) {
    // row[j] = exp(row[j] - shift). Returns the sum; pieces of 256 elements are added in double.
    const auto exp_sum = [](T* row, Index count, T shift) {
      double sum = 0;
      for (Index j = 0; j < count; j += 256) {
        const Index part = (std::min)(Index(256), count - j);
        sum += static_cast<double>(detail::exp_row(row + j, part, part, T(1), shift));
      }
      return sum;
    };
    parallel_for(logits.rows, 8 * logits.columns, [&](Index i) {
      T* const row = logits.row(i);
      const std::int32_t target = targets[i];
      losses[i] = 0;
      if (target == ignored) {
        if (keep) std::fill_n(row, logits.columns, T(0));
        return;
      }
      const T largest = detail::max_of_row(row, logits.columns);
      const T at_target = row[target];
      const double sum = exp_sum(row, logits.columns, largest);
      losses[i] = std::log(sum) + static_cast<double>(largest) - static_cast<double>(at_target);
      if (!keep) return;
      const T scale = static_cast<T>(1.0 / (sum * divisor));
      for (Index j = 0; j < logits.columns; ++j) row[j] *= scale;
      row[target] -= static_cast<T>(1.0 / divisor);
    });
  }
};

/// In float, on a copy of each row.
template <>
struct kernels<op::cross_entropy, BFloat16, Cpu> {
  using InFloat = kernels<op::cross_entropy, float, Cpu>;  ///< computes all
  using Loss = InFloat::Loss;                              ///< of one row

  /// See the template above.
  static void run(MatrixView<BFloat16> logits, Loss* losses, const std::int32_t* targets,
                  std::int32_t ignored, double divisor, bool keep) {
    using Convert = kernels<op::elementwise, BFloat16, Cpu>;
    parallel_for(logits.rows, 8 * logits.columns, [&](Index i) {
      float* const row = detail::scratch<float>(detail::Scratch::wide, logits.columns);
      const MatrixView<float> wide(row, 1, logits.columns);
      Convert::convert_to(wide, logits.rows_from(i, 1));
      InFloat::run(wide, losses + i, targets + i, ignored, divisor, keep);
      if (keep) Convert::convert_from(logits.rows_from(i, 1), wide);
    });
  }
};

}  // namespace ops
DROPBP_NAMESPACE_END
