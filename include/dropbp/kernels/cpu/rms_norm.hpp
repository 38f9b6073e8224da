// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// RMSNorm on the CPU. See ops/rms_norm.hpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>

#include "dropbp/kernels/cpu/parallel.hpp"
#include "dropbp/kernels/cpu/simd.hpp"
#include "dropbp/kernels/kernels.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// See ops/rms_norm.hpp.
template <std::floating_point T>
struct kernels<op::rms_norm, T, Cpu> {
  /// y [rows, hidden] = norm(x), rstd [rows] = 1 / sqrt(mean(x^2) + eps).
  static void forward(MatrixView<T> y, T* rstd, MatrixView<const T> x, const T* w, double eps) {
    parallel_for(x.rows, x.columns, [&](Index i) {
      const T* const in = x.row(i);
      const double squares = detail::row_sum<T>(x.columns, [&](Index j, auto piece) {
        const auto v = detail::load_piece(in + j, piece, T(0));
        return v * v;
      });
      rstd[i] = static_cast<T>(1.0 / std::sqrt(squares / static_cast<double>(x.columns) + eps));
      for (Index j = 0; j < x.columns; ++j) y.row(i)[j] = in[j] * rstd[i] * w[j];
    });
  }

  /// Computes the same y from rstd.
  static void recompute(MatrixView<T> y, MatrixView<const T> x, const T* w, const T* rstd) {
    parallel_for(x.rows, x.columns, [&](Index i) {
      for (Index j = 0; j < x.columns; ++j) y.row(i)[j] = x.row(i)[j] * rstd[i] * w[j];
    });
  }

  /// Number of elements of backward's workspace if the weight is trained.
  static Index backward_workspace(Index rows, Index columns) { return chunks_of(rows) * columns; }

  /// grad_input (=|+=) the gradient of x; skipped if grad_input.data is null. grad_weight [hidden]
  /// (=|+=) the gradient of w; skipped if null (frozen). The bits do not depend on the number of
  /// threads.
  static void backward(MatrixView<T> grad_input, Accumulate mode, MatrixView<const T> grad_output,
                       MatrixView<const T> x, const T* w, const T* rstd, T* grad_weight,
                       Accumulate weight_mode, T* workspace) {
    const Index hidden = x.columns, chunks = chunks_of(x.rows);
    parallel_for(chunks, chunk_rows * hidden, [&](Index chunk) {
      T* const share = grad_weight != nullptr ? workspace + chunk * hidden : nullptr;
      if (share != nullptr) std::fill_n(share, hidden, T(0));
      const Index last = (std::min)(x.rows, (chunk + 1) * chunk_rows);
      for (Index i = chunk * chunk_rows; i < last; ++i) {
        if (share != nullptr) add_to_share(share, grad_output.row(i), x.row(i), rstd[i], hidden);
        if (grad_input.data != nullptr)
          backward_row(grad_input.row(i), mode, grad_output.row(i), x.row(i), w, rstd[i], hidden);
      }
    });
    if (grad_weight == nullptr) return;
    for (Index j = 0; j < hidden; ++j) {
      double sum = weight_mode == Accumulate::add ? static_cast<double>(grad_weight[j]) : 0.0;
      for (Index chunk = 0; chunk < chunks; ++chunk)
        sum += static_cast<double>(workspace[chunk * hidden + j]);
      grad_weight[j] = static_cast<T>(sum);
    }
  }

 private:
  // Rows whose gradients of the weight one thread adds up. The partial sums are added in order.
  static constexpr Index chunk_rows = 64;
  static Index chunks_of(Index rows) { return (rows + chunk_rows - 1) / chunk_rows; }

  static void add_to_share(T* share, const T* dy, const T* in, T scale, Index hidden) {
    for (Index j = 0; j < hidden; ++j) share[j] += dy[j] * (in[j] * scale);
  }

  // d/dx of x * r(x): r * (w dy) - x * r^3 * mean(x * w * dy)
  static void backward_row(T* dx, Accumulate mode, const T* dy, const T* in, const T* w, T scale,
                           Index hidden) {
    const double dot = detail::row_sum<T>(hidden, [&](Index j, auto piece) {
      return detail::load_piece(dy + j, piece, T(0)) * detail::load_piece(w + j, piece, T(0)) *
             detail::load_piece(in + j, piece, T(0));
    });
    const double r = static_cast<double>(scale);
    const T back = static_cast<T>(r * r * r * dot / static_cast<double>(hidden));
    if (mode == Accumulate::add)
      for (Index j = 0; j < hidden; ++j) dx[j] += scale * (w[j] * dy[j]) - in[j] * back;
    else
      for (Index j = 0; j < hidden; ++j) dx[j] = scale * (w[j] * dy[j]) - in[j] * back;
  }
};

}  // namespace ops
DROPBP_NAMESPACE_END
