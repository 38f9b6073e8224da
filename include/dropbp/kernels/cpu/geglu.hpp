// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The gate of GeGLU on the CPU. See ops/geglu.hpp.
#pragma once

#include <concepts>

#include "dropbp/kernels/cpu/parallel.hpp"
#include "dropbp/kernels/cpu/simd.hpp"
#include "dropbp/kernels/kernels.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// See ops/geglu.hpp. gelu(g) is g sigmoid(2 a (g + c g^3)), because (1 + tanh z) / 2 is
/// sigmoid(2 z).
template <std::floating_point T>
struct kernels<op::geglu, T, Cpu> {
  /// out [rows, m] = gelu(gate) * up, with gate_up [rows, 2 m].
  static void forward(MatrixView<T> out, MatrixView<const T> gate_up) {
    const Index m = out.columns;
    parallel_for(out.rows, 8 * m, [&](Index i) {
      const T* const gate = gate_up.row(i);
      detail::for_each_vector<T>(m, [&](Index j, auto piece) {
        const auto g = detail::load_piece(gate + j, piece, T(0)),
                   u = detail::load_piece(gate + m + j, piece, T(0));
        detail::store_piece<T>(out.row(i) + j, g * sigmoid_of(g) * u, piece);
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
        const auto s = sigmoid_of(g);
        const auto gelu = g * s;  // as in the forward pass, so that the bits are equal
        const auto slope = s + gelu * (T(1) - s) * (T(2) * a * (T(1) + T(3) * c * g * g));
        detail::store_piece<T>(grad_gate_up.row(i) + j, d * u * slope, piece);
        detail::store_piece<T>(grad_gate_up.row(i) + m + j, d * gelu, piece);
        detail::store_piece<T>(out + j, gelu * u, piece);
      });
    });
  }

 private:
  static constexpr T a = T(0.79788456080286535588);  // sqrt(2 / pi)
  static constexpr T c = T(0.044715);

  template <class V>
  static V sigmoid_of(V g) {
    return T(1) / (T(1) + detail::exp<T>(T(-2) * a * (g + c * g * g * g)));
  }
};

}  // namespace ops
DROPBP_NAMESPACE_END
