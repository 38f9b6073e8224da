// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The gate of SwiGLU on the CPU. See ops/swiglu.hpp.
#pragma once

#include <concepts>

#include "dropbp/kernels/cpu/parallel.hpp"
#include "dropbp/kernels/cpu/simd.hpp"
#include "dropbp/kernels/kernels.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// See ops/swiglu.hpp.
template <std::floating_point T>
struct kernels<op::swiglu, T, Cpu> {
  /// out [rows, m] = silu(gate) * up, with gate_up [rows, 2 m].
  static void forward(MatrixView<T> out, MatrixView<const T> gate_up) {
    const Index m = out.columns;
    parallel_for(out.rows, 8 * m, [&](Index i) {
      const T* const gate = gate_up.row(i);
      detail::for_each_vector<T>(m, [&](Index j, auto piece) {
        const auto g = detail::load_piece(gate + j, piece, T(0)),
                   u = detail::load_piece(gate + m + j, piece, T(0));
        detail::store_piece<T>(out.row(i) + j, g / (T(1) + detail::exp<T>(-g)) * u, piece);
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
      detail::for_each_vector<T>(m, [&](Index j, auto piece) {
        const auto g = detail::load_piece(gate + j, piece, T(0)),
                   u = detail::load_piece(gate + m + j, piece, T(0));
        const auto d = detail::load_piece<T>(out + j, piece, T(0));
        const auto sigmoid = T(1) / (T(1) + detail::exp<T>(-g));
        const auto silu =
            g / (T(1) + detail::exp<T>(-g));  // as in the forward pass, so that the bits are equal
        detail::store_piece<T>(grad_gate_up.row(i) + j, d * u * (sigmoid + silu * (T(1) - sigmoid)),
                               piece);
        detail::store_piece<T>(grad_gate_up.row(i) + m + j, d * silu, piece);
        detail::store_piece<T>(out + j, silu * u, piece);
      });
    });
  }
};

}  // namespace ops
DROPBP_NAMESPACE_END
