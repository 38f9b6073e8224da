// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Weight-decomposed adapters (DoRA): the magnitude m of each row of W + B A is trained beside the
// row's direction, y = m / n * x (W + B A)^T with the row's norm n = |W + B A|, through which no
// gradient passes. Source: Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation" (ICML 2024),
// section 4.3. There are kernels for float and double on the CPU alone.
#pragma once

#include <type_traits>

#include "dropbp/kernels/cpu/dora.hpp"
#include "dropbp/ops/bias.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {
namespace detail {

// Calls use(kernels); throws std::invalid_argument where there are none.
template <class T, class Backend, class Use>
void with_dora_kernels(const Use& use) {
  if constexpr (is_plain<T, Backend>)
    use(kernels<op::dora, T, Backend>{});
  else
    refuse_without_kernel("an adapter with magnitudes (DoRA)");
}

}  // namespace detail

/// norms [weight.rows] = the Euclidean norm of each row.
template <class T, class Backend>
void row_norms(T* norms, MatrixView<T, Backend> weight) {
  detail::with_dora_kernels<T, Backend>([&](auto dora) { dora.norms(norms, weight); });
}

/// Row i of the weight *= magnitudes[i] / norms[i].
template <class T, class Backend>
void scale_rows(MatrixView<T, Backend> weight, const T* magnitudes, const T* norms) {
  detail::with_dora_kernels<T, Backend>(
      [&](auto dora) { dora.scale_rows(weight, magnitudes, norms); });
}

/// Column j of y *= magnitudes[j] / norms[j].
template <class T, class Backend>
void scale_columns(MatrixView<T, Backend> y, const T* magnitudes, const T* norms) {
  detail::with_dora_kernels<T, Backend>(
      [&](auto dora) { dora.scale_columns(y, magnitudes, norms); });
}

/// gradient [columns of t] (=|+=) that of the magnitudes, for t = x (W + B A)^T.
template <class T, class Backend>
void magnitude_backward(T* gradient, Accumulate mode,
                        std::type_identity_t<MatrixView<const T, Backend>> grad_output,
                        MatrixView<T, Backend> t, const T* norms) {
  detail::with_dora_kernels<T, Backend>(
      [&](auto dora) { dora.gradient(gradient, mode, grad_output, t, norms); });
}

}  // namespace ops
DROPBP_NAMESPACE_END
