// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The gate of SwiGLU and GELU, forward and backward. See ops/swiglu.hpp; GELU in the tanh form of
// GPT-2 (Hendrycks and Gimpel, arXiv 1606.08415).
#pragma once

#include <cmath>

#include "dropbp/backend/cuda/elementwise.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {

/// 1 / (1 + exp(-x)).
DROPBP_HOST_DEVICE float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

/// x / (1 + exp(-x)).
DROPBP_HOST_DEVICE float silu(float x) { return x / (1.0f + std::exp(-x)); }

/// d silu / d x.
DROPBP_HOST_DEVICE float silu_derivative(float x) {
  const float s = sigmoid(x);
  return s + silu(x) * (1.0f - s);
}

/// x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))).
DROPBP_HOST_DEVICE float gelu(float x) {
  return 0.5f * x * (1.0f + std::tanh(0.7978845608f * (x + 0.044715f * x * x * x)));
}

/// d gelu / d x.
DROPBP_HOST_DEVICE float gelu_derivative(float x) {
  const float t = std::tanh(0.7978845608f * (x + 0.044715f * x * x * x));
  return 0.5f * (1.0f + t) +
         0.5f * x * (1.0f - t * t) * 0.7978845608f * (1.0f + 3.0f * 0.044715f * x * x);
}

namespace detail {

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
    for (unsigned i = 0; i < N; ++i)
      result.values[i] =
          from_float<T>(silu(to_float(values.gate.values[i])) * to_float(values.up.values[i]));
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
      gate.values[i] = from_float<T>(d * u * silu_derivative(g));
      up.values[i] = from_float<T>(d * silu(g));
      out.values[i] = from_float<T>(silu(g) * u);
    }
    T* const to = grad_gate_up.row(row) + pack * N;
    ctx.store(to, gate);
    ctx.store(to + m, up);
    ctx.store(out_gradient.row(row) + pack * N, out);
  }
};

template <class T, unsigned N>
struct GeluForwardMap {
  static constexpr const char* name = "gelu_forward";
  using Values = Pack<T, N>;
  Rows<T> out;
  Rows<const T> in;
  template <class Context>
  DROPBP_DEVICE Values load(Context ctx, Index row, Index pack) const {
    return ctx.template load_streaming<T, N>(in.row(row) + pack * N);
  }
  template <class Context>
  DROPBP_DEVICE void store(Context ctx, Index row, Index pack, Values values) const {
    ctx.store(out.row(row) + pack * N, transformed(values, [](float x) { return gelu(x); }));
  }
};

template <class T, unsigned N>
struct GeluBackwardMap {
  static constexpr const char* name = "gelu_backward";
  struct Values {
    Pack<T, N> in, gradient;
  };
  Rows<T> grad_in;
  Rows<const T> grad_out, in;
  template <class Context>
  DROPBP_DEVICE Values load(Context ctx, Index row, Index pack) const {
    return {ctx.template load_streaming<T, N>(in.row(row) + pack * N),
            ctx.template load<T, N>(grad_out.row(row) + pack * N)};
  }
  template <class Context>
  DROPBP_DEVICE void store(Context ctx, Index row, Index pack, Values values) const {
    DROPBP_UNROLL
    for (unsigned i = 0; i < N; ++i)
      values.gradient.values[i] = from_float<T>(to_float(values.gradient.values[i]) *
                                                gelu_derivative(to_float(values.in.values[i])));
    ctx.store(grad_in.row(row) + pack * N, values.gradient);
  }
};

// As rows: the halves of a row of gate_up are m elements apart, so that m must hold whole packs.
template <class T, class Use, class... Operands>
void choose_width_by_rows(Index rows, Index columns, const Use& use, Rows<Operands>... operands) {
  if (rows <= 0 || columns <= 0) return;
  constexpr unsigned width = full_width<T>;
  if ((is_vectorizable(operands, rows, columns) && ...))
    return use(std::integral_constant<unsigned, width>{});
  use(std::integral_constant<unsigned, 1>{});
}

}  // namespace detail

/// out [rows, m] = silu(gate) * up, with gate_up [rows, 2 m]: gate in the first half of a row, up
/// in the second.
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

/// grad_gate_up [rows, 2 m] from out_gradient [rows, m], the gradient of out, over which out itself
/// is written.
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

/// out [rows, columns] = gelu(in).
template <class Launcher, class T>
void gelu_forward(Launcher& launch, Rows<T> out, std::type_identity_t<Rows<const T>> in, Index rows,
                  Index columns) {
  detail::choose_width<T>(
      rows, columns,
      [&](auto width, Index r, Index c) {
        detail::map_packs(launch, detail::GeluForwardMap<T, width>{out, in}, r, c / width);
      },
      out, in);
}

/// grad_in [rows, columns] = grad_out * gelu'(in). grad_in may be grad_out.
template <class Launcher, class T>
void gelu_backward(Launcher& launch, Rows<T> grad_in, std::type_identity_t<Rows<const T>> grad_out,
                   std::type_identity_t<Rows<const T>> in, Index rows, Index columns) {
  detail::choose_width<T>(
      rows, columns,
      [&](auto width, Index r, Index c) {
        detail::map_packs(launch, detail::GeluBackwardMap<T, width>{grad_in, grad_out, in}, r,
                          c / width);
      },
      grad_in, grad_out, in);
}

}  // namespace cuda
DROPBP_NAMESPACE_END
