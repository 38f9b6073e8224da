// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// RMSNorm on the CPU. See ops/rms_norm.hpp.
#pragma once

#include <algorithm>
#include <cmath>

#include "dropbp/kernels/cpu/parallel.hpp"
#include "dropbp/kernels/cpu/simd.hpp"
#include "dropbp/kernels/kernels.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// See ops/rms_norm.hpp.
template <HostScalar T>
struct kernels<op::rms_norm, T, Cpu> {
  using S = Statistic<T>;  ///< what rows are computed in

  /// y [rows, hidden] = norm(x), rstd [rows] = 1 / sqrt(mean(x^2) + eps).
  static void forward(MatrixView<T> y, S* rstd, MatrixView<const T> x, const T* w, double eps) {
    parallel_for(x.rows, x.columns, [&](Index i) {
      const T* const in = x.row(i);
      double squares = 0;
      detail::with_vectors<S>([&](auto n) DROPBP_FORCE_INLINE {
        squares = detail::row_sum<S, n>(x.columns, [&](Index j, auto piece) DROPBP_FORCE_INLINE {
          const auto v = detail::load_piece(in + j, piece, S(0));
          return v * v;
        });
      });
      rstd[i] = static_cast<S>(1.0 / std::sqrt(squares / static_cast<double>(x.columns) + eps));
      scale_row(y.row(i), in, w, rstd[i], x.columns);
    });
  }

  /// Computes the same y from rstd.
  static void recompute(MatrixView<T> y, MatrixView<const T> x, const T* w, const S* rstd) {
    parallel_for(x.rows, x.columns,
                 [&](Index i) { scale_row(y.row(i), x.row(i), w, rstd[i], x.columns); });
  }

  /// Number of elements of backward's workspace if the weight is trained.
  static Index backward_workspace(Index rows, Index columns) { return chunks_of(rows) * columns; }

  /// grad_input (=|+=) the gradient of x; skipped if grad_input.data is null. grad_weight [hidden]
  /// (=|+=) the gradient of w; skipped if null (frozen). The bits do not depend on the number of
  /// threads.
  static void backward(MatrixView<T> grad_input, Accumulate mode, MatrixView<const T> grad_output,
                       MatrixView<const T> x, const T* w, const S* rstd, T* grad_weight,
                       Accumulate weight_mode, S* workspace) {
    const Index hidden = x.columns, chunks = chunks_of(x.rows);
    parallel_for(chunks, chunk_rows * hidden, [&](Index chunk) {
      S* const share = grad_weight != nullptr ? workspace + chunk * hidden : nullptr;
      if (share != nullptr) std::fill_n(share, hidden, S(0));
      const Index last = (std::min)(x.rows, (chunk + 1) * chunk_rows);
      for (Index i = chunk * chunk_rows; i < last; ++i) {
        if (share != nullptr) add_to_share(share, grad_output.row(i), x.row(i), rstd[i], hidden);
        if (grad_input.data != nullptr)
          backward_row(grad_input.row(i), mode, grad_output.row(i), x.row(i), w, rstd[i], hidden);
      }
    });
    if (grad_weight == nullptr) return;
    for (Index j = 0; j < hidden; ++j) {
      double sum =
          weight_mode == Accumulate::add ? static_cast<double>(detail::real(grad_weight[j])) : 0.0;
      for (Index chunk = 0; chunk < chunks; ++chunk)
        sum += static_cast<double>(workspace[chunk * hidden + j]);
      grad_weight[j] = detail::rounded<T>(static_cast<S>(sum));
    }
  }

 private:
  // Rows whose gradients of the weight one thread adds up. The partial sums are added in order.
  static constexpr Index chunk_rows = 64;
  static Index chunks_of(Index rows) { return (rows + chunk_rows - 1) / chunk_rows; }

  static void scale_row(T* y, const T* in, const T* w, S rstd, Index hidden) {
    detail::with_vectors<S>([&](auto n) DROPBP_FORCE_INLINE {
      detail::for_each_piece<n>(hidden, [&](Index j, auto piece) DROPBP_FORCE_INLINE {
        detail::store_piece(
            y + j,
            detail::load_piece(in + j, piece, S(0)) * rstd * detail::load_piece(w + j, piece, S(0)),
            piece);
      });
    });
  }

  static void add_to_share(S* share, const T* dy, const T* in, S rstd, Index hidden) {
    detail::with_vectors<S>([&](auto n) DROPBP_FORCE_INLINE {
      detail::for_each_piece<n>(hidden, [&](Index j, auto piece) DROPBP_FORCE_INLINE {
        const auto normed = detail::load_piece(in + j, piece, S(0)) * rstd;
        detail::store_piece(share + j,
                            detail::load_piece(share + j, piece, S(0)) +
                                detail::load_piece(dy + j, piece, S(0)) * normed,
                            piece);
      });
    });
  }

  // d/dx of x * r(x): r * (w dy) - x * r^3 * mean(x * w * dy)
  static void backward_row(T* dx, Accumulate mode, const T* dy, const T* in, const T* w, S rstd,
                           Index hidden) {
    detail::with_vectors<S>([&](auto n) DROPBP_FORCE_INLINE {
      const auto weighted = [&](Index j, auto piece) DROPBP_FORCE_INLINE {
        return detail::load_piece(dy + j, piece, S(0)) * detail::load_piece(w + j, piece, S(0));
      };
      const double dot =
          detail::row_sum<S, n>(hidden, [&](Index j, auto piece) DROPBP_FORCE_INLINE {
            return weighted(j, piece) * detail::load_piece(in + j, piece, S(0));
          });
      const double r = static_cast<double>(rstd);
      const S back = static_cast<S>(r * r * r * dot / static_cast<double>(hidden));
      detail::for_each_piece<n>(hidden, [&](Index j, auto piece) DROPBP_FORCE_INLINE {
        auto gradient = rstd * weighted(j, piece) - detail::load_piece(in + j, piece, S(0)) * back;
        if (mode == Accumulate::add) gradient += detail::load_piece(dx + j, piece, S(0));
        detail::store_piece(dx + j, gradient, piece);
      });
    });
  }
};

}  // namespace ops
DROPBP_NAMESPACE_END
