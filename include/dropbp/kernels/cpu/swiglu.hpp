// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The gate of SwiGLU on the CPU. See ops/swiglu.hpp.
#pragma once

#include "dropbp/kernels/cpu/parallel.hpp"
#include "dropbp/kernels/cpu/simd.hpp"
#include "dropbp/kernels/kernels.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// See ops/swiglu.hpp.
template <HostScalar T>
struct kernels<op::swiglu, T, Cpu> {
  using S = Statistic<T>;  ///< what rows are computed in

  /// out [rows, m] = silu(gate) * up, with gate_up [rows, 2 m].
  static void forward(MatrixView<T> out, MatrixView<const T> gate_up) {
    const Index m = out.columns;
    parallel_for(out.rows, 8 * m, [&](Index i) {
      const T* const gate = gate_up.row(i);
      T* const to = out.row(i);
      detail::with_vectors<S>([&](auto n) DROPBP_FORCE_INLINE {
        detail::for_each_piece<n>(m, [&](Index j, auto piece) DROPBP_FORCE_INLINE {
          const auto g = detail::load_piece(gate + j, piece, S(0)),
                     u = detail::load_piece(gate + m + j, piece, S(0));
          detail::store_piece(to + j, g / (S(1) + detail::exp(-g)) * u, piece);
        });
      });
    });
  }

  /// Computes grad_gate_up [rows, 2 m]. out_gradient [rows, m] holds the gradient of out on entry
  /// and out itself on return.
  static void backward(MatrixView<T> grad_gate_up, MatrixView<T> out_gradient,
                       MatrixView<const T> gate_up) {
    const Index m = out_gradient.columns;
    parallel_for(out_gradient.rows, 8 * m, [&](Index i) {
      const T* const gate = gate_up.row(i);
      T* const out = out_gradient.row(i);
      T* const to = grad_gate_up.row(i);
      detail::with_vectors<S>([&](auto n) DROPBP_FORCE_INLINE {
        detail::for_each_piece<n>(m, [&](Index j, auto piece) DROPBP_FORCE_INLINE {
          const auto g = detail::load_piece(gate + j, piece, S(0)),
                     u = detail::load_piece(gate + m + j, piece, S(0));
          const auto d = detail::load_piece(out + j, piece, S(0));
          const auto below = S(1) + detail::exp(-g);
          const auto sigmoid = S(1) / below;
          const auto silu = g / below;  // as in the forward pass, so that the bits are equal
          detail::store_piece(to + j, d * u * (sigmoid + silu * (S(1) - sigmoid)), piece);
          detail::store_piece(to + m + j, d * silu, piece);
          detail::store_piece(out + j, silu * u, piece);
        });
      });
    });
  }
};

}  // namespace ops
DROPBP_NAMESPACE_END
