// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The gate of SwiGLU on CUDA, forward and backward. See ops/swiglu.hpp.
#pragma once

#include <cmath>

#include "dropbp/kernels/cuda/maps.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {

/// 1 / (1 + exp(-x)).
DROPBP_HOST_DEVICE float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

/// x / (1 + exp(-x)).
DROPBP_HOST_DEVICE float silu(float x) { return x / (1.0f + std::exp(-x)); }

/// The derivative of silu.
DROPBP_HOST_DEVICE float silu_derivative(float x) {
  const float s = sigmoid(x);
  return s + silu(x) * (1.0f - s);
}

namespace detail {

// 1 / (1 + exp(-x)). Where the results have 16 bits, in half the instructions: the relative error
// is at most 2^-23 (5.5 + 1.173 |x|), and 0 is returned below -87.3.
template <class T, class Context>
DROPBP_DEVICE float gate_sigmoid(Context ctx, float x) {
  if constexpr (sizeof(T) == 2)
    return ctx.fast_divide(1.0f, 1.0f + ctx.fast_exp(-x));
  else
    return sigmoid(x);
}

template <class T, unsigned N>
struct SwigluForwardMap {
  static constexpr const char* name = "swiglu_forward";
  struct Values {
    Pack<T, N> gate, up;
  };
  Rows<T> out;
  Rows<const T> gate_up;
  Index m;
  template <class Context>
  DROPBP_DEVICE Values load(Context ctx, Index row, Index pack) const {
    const T* const gate = gate_up.row(row) + pack * N;
    return {ctx.template load_streaming<T, N>(gate), ctx.template load_streaming<T, N>(gate + m)};
  }
  template <class Context>
  DROPBP_DEVICE void store(Context ctx, Index row, Index pack, Values values) const {
    Pack<T, N> result;
    DROPBP_UNROLL
    for (unsigned i = 0; i < N; ++i) {
      const float g = to_float(values.gate.values[i]), u = to_float(values.up.values[i]);
      result.values[i] = from_float<T>(g * gate_sigmoid<T>(ctx, g) * u);
    }
    ctx.store(out.row(row) + pack * N, result);
  }
};

template <class T, unsigned N>
struct SwigluBackwardMap {
  static constexpr const char* name = "swiglu_backward";
  struct Values {
    Pack<T, N> gate, up, gradient;
  };
  Rows<T> grad_gate_up, out_gradient;
  Rows<const T> gate_up;
  Index m;
  template <class Context>
  DROPBP_DEVICE Values load(Context ctx, Index row, Index pack) const {
    const T* const gate = gate_up.row(row) + pack * N;
    return {ctx.template load_streaming<T, N>(gate), ctx.template load_streaming<T, N>(gate + m),
            ctx.template load<T, N>(out_gradient.row(row) + pack * N)};
  }
  template <class Context>
  DROPBP_DEVICE void store(Context ctx, Index row, Index pack, Values values) const {
    Pack<T, N> gate, up, out;
    DROPBP_UNROLL
    for (unsigned i = 0; i < N; ++i) {
      const float g = to_float(values.gate.values[i]), u = to_float(values.up.values[i]),
                  d = to_float(values.gradient.values[i]);
      const float s = gate_sigmoid<T>(ctx, g), a = g * s;
      gate.values[i] = from_float<T>(d * u * (s + a * (1.0f - s)));
      up.values[i] = from_float<T>(d * a);
      out.values[i] = from_float<T>(a * u);
    }
    T* const to = grad_gate_up.row(row) + pack * N;
    ctx.store(to, gate);
    ctx.store(to + m, up);
    ctx.store(out_gradient.row(row) + pack * N, out);
  }
};

// Like choose_width, but keeps the rows: the halves of a row of gate_up are m elements apart, so m
// must be a multiple of the width.
template <class T, class Use, class... Operands>
void choose_width_by_rows(Index rows, Index columns, const Use& use, Rows<Operands>... operands) {
  if (rows <= 0 || columns <= 0) return;
  constexpr unsigned width = full_width<T>;
  if ((is_vectorizable(operands, rows, columns) && ...))
    return use(std::integral_constant<unsigned, width>{});
  use(std::integral_constant<unsigned, 1>{});
}

}  // namespace detail

/// out [rows, m] = silu(gate) * up. Each row of gate_up [rows, 2 m] holds gate, then up.
template <class Launcher, class T>
void swiglu_forward(Launcher& launch, Rows<T> out, std::type_identity_t<Rows<const T>> gate_up,
                    Index rows, Index m) {
  detail::choose_width_by_rows<T>(
      rows, m,
      [&](auto width) {
        detail::map_packs(launch, detail::SwigluForwardMap<T, width>{out, gate_up, m}, rows,
                          m / width);
      },
      out, gate_up);
}

/// Computes grad_gate_up [rows, 2 m]. out_gradient [rows, m] holds the gradient of out on entry and
/// out itself on return.
template <class Launcher, class T>
void swiglu_backward(Launcher& launch, Rows<T> grad_gate_up,
                     std::type_identity_t<Rows<T>> out_gradient,
                     std::type_identity_t<Rows<const T>> gate_up, Index rows, Index m) {
  detail::choose_width_by_rows<T>(
      rows, m,
      [&](auto width) {
        detail::map_packs(
            launch, detail::SwigluBackwardMap<T, width>{grad_gate_up, out_gradient, gate_up, m},
            rows, m / width);
      },
      grad_gate_up, out_gradient, gate_up);
}

}  // namespace cuda

namespace ops {

/// See kernels/cpu/swiglu.hpp. Launches into the current CUDA stream.
template <cuda::Scalar T, cuda::BodyBackend Backend>
struct kernels<op::swiglu, T, Backend> {
  using View = MatrixView<T, Backend>;             ///< of outputs
  using ConstView = MatrixView<const T, Backend>;  ///< of inputs

  static void forward(View out, ConstView gate_up);                               ///< computes out
  static void backward(View grad_gate_up, View out_gradient, ConstView gate_up);  ///< the gradient
};

template <cuda::Scalar T, cuda::BodyBackend Backend>
void kernels<op::swiglu, T, Backend>::forward(View out, ConstView gate_up) {
  auto launch = device_launcher<Backend>::current();
  cuda::swiglu_forward(launch, cuda::rows_of(out), cuda::rows_of(gate_up), out.rows, out.columns);
}

template <cuda::Scalar T, cuda::BodyBackend Backend>
void kernels<op::swiglu, T, Backend>::backward(View grad_gate_up, View out_gradient,
                                               ConstView gate_up) {
  auto launch = device_launcher<Backend>::current();
  cuda::swiglu_backward(launch, cuda::rows_of(grad_gate_up), cuda::rows_of(out_gradient),
                        cuda::rows_of(gate_up), out_gradient.rows, out_gradient.columns);
}

}  // namespace ops
DROPBP_NAMESPACE_END
