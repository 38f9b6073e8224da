// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The gates of gated MLPs: SwiGLU's, and GeGLU's with the tanh approximation of GELU, gelu(gate) *
// up with gelu(g) = g / 2 * (1 + tanh(sqrt(2 / pi) (g + 0.044715 g^3))). Sources: Shazeer, "GLU
// Variants Improve Transformer" (arXiv 2002.05202); Hendrycks and Gimpel, "Gaussian Error Linear
// Units" (arXiv 1606.08415). GeGLU has kernels for the CPU alone.
#pragma once

#include <concepts>
#include <type_traits>

#include "dropbp/kernels/cpu/geglu.hpp"
#include "dropbp/ops/bias.hpp"
#include "dropbp/ops/branch_traits.hpp"
#include "dropbp/ops/swiglu.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// See swiglu_forward. Throws std::invalid_argument for gelu_tanh on a device.
template <class T, class Backend = Cpu>
void gate_forward(Gate gate, MatrixView<T, Backend> out,
                  std::type_identity_t<MatrixView<const T, Backend>> gate_up) {
  if (gate == Gate::silu) return swiglu_forward(out, gate_up);
  if constexpr (detail::is_plain<T, Backend>)
    kernels<op::geglu, T, Backend>::forward(out, gate_up);
  else
    detail::refuse_without_kernel("GeGLU");
}

/// See swiglu_backward. Throws std::invalid_argument for gelu_tanh on a device.
template <class T, class Backend = Cpu>
void gate_backward(Gate gate, MatrixView<T, Backend> grad_gate_up,
                   std::type_identity_t<MatrixView<T, Backend>> out_gradient,
                   std::type_identity_t<MatrixView<const T, Backend>> gate_up) {
  if (gate == Gate::silu) return swiglu_backward(grad_gate_up, out_gradient, gate_up);
  if constexpr (detail::is_plain<T, Backend>)
    kernels<op::geglu, T, Backend>::backward(grad_gate_up, out_gradient, gate_up);
  else
    detail::refuse_without_kernel("GeGLU");
}

}  // namespace ops
DROPBP_NAMESPACE_END
