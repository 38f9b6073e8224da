// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Soft caps on the CPU: cap * tanh(x / cap). See ops/softcap.hpp.
#pragma once

#include <cmath>
#include <concepts>

#include "dropbp/kernels/cpu/parallel.hpp"
#include "dropbp/kernels/kernels.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {
namespace detail {

// Scores that are multiplied by `scale` later: scale * score becomes cap * tanh(scale * score /
// cap). `slopes` gets the derivatives, unless it is null.
template <class T>
void cap_scores(T* scores, Index count, T scale, T cap, T* slopes) noexcept {
  const T in = scale / cap, out = cap / scale;
  for (Index j = 0; j < count; ++j) {
    const T t = std::tanh(scores[j] * in);
    scores[j] = out * t;
    if (slopes != nullptr) slopes[j] = T(1) - t * t;
  }
}

}  // namespace detail

/// See ops/softcap.hpp.
template <std::floating_point T>
struct kernels<op::softcap, T, Cpu> {
  /// y = cap * tanh(y / cap).
  static void forward(MatrixView<T> y, double cap) {
    parallel_for(y.rows, 16 * y.columns, [&](Index i) {
      detail::cap_scores(y.row(i), y.columns, T(1), static_cast<T>(cap), static_cast<T*>(nullptr));
    });
  }

  /// grad *= 1 - (y / cap)^2, with the capped y.
  static void backward(MatrixView<T> grad, MatrixView<const T> y, double cap) {
    const T by = static_cast<T>(1.0 / cap);
    parallel_for(grad.rows, grad.columns, [&](Index i) {
      for (Index j = 0; j < grad.columns; ++j) {
        const T t = y.row(i)[j] * by;
        grad.row(i)[j] *= T(1) - t * t;
      }
    });
  }
};

}  // namespace ops
DROPBP_NAMESPACE_END
