// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// GELU in the tanh form of GPT-2 (Hendrycks and Gimpel, arXiv 1606.08415), forward and backward
// pass.
#pragma once

#include <cmath>

#include "dropbp/kernels/cuda/maps.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {

/// x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))).
DROPBP_HOST_DEVICE float gelu(float x) {
  return 0.5f * x * (1.0f + std::tanh(0.7978845608f * (x + 0.044715f * x * x * x)));
}

/// The derivative of gelu.
DROPBP_HOST_DEVICE float gelu_derivative(float x) {
  const float t = std::tanh(0.7978845608f * (x + 0.044715f * x * x * x));
  return 0.5f * (1.0f + t) +
         0.5f * x * (1.0f - t * t) * 0.7978845608f * (1.0f + 3.0f * 0.044715f * x * x);
}

namespace detail {

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

}  // namespace detail

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
