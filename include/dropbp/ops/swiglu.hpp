// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The gate of SwiGLU, silu(gate) * up with silu(g) = g / (1 + exp(-g)). Source: Shazeer, "GLU
// Variants Improve Transformer" (arXiv 2002.05202).
#pragma once

#include <type_traits>

#include "dropbp/ops/matrix.hpp"
#include "dropbp/ops/simd.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// out [rows, m] = silu(gate) * up, with gate_up [rows, 2 m]: gate in the first half of a row, up
/// in the second.
template <class T>
void swiglu_forward(MatrixView<T> out, std::type_identity_t<MatrixView<const T>> gate_up) {
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

/// In one pass over the rows: grad_gate_up [rows, 2 m] from the gradient of out, and out itself
/// recomputed over it: out_gradient [rows, m] holds d loss / d out on entry and out on return,
/// ready for the down projection's weight gradient.
template <class T>
void swiglu_backward(MatrixView<T> grad_gate_up, MatrixView<T> out_gradient,
                     std::type_identity_t<MatrixView<const T>> gate_up) {
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
          g / (T(1) + detail::exp<T>(-g));  // as in the forward pass, for the same bits
      detail::store_piece<T>(grad_gate_up.row(i) + j, d * u * (sigmoid + silu * (T(1) - sigmoid)),
                             piece);
      detail::store_piece<T>(grad_gate_up.row(i) + m + j, d * silu, piece);
      detail::store_piece<T>(out + j, silu * u, piece);
    });
  });
}

}  // namespace ops
DROPBP_NAMESPACE_END
