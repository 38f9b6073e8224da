// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The gate of SwiGLU, silu(gate) * up with silu(g) = g / (1 + exp(-g)). Source: Shazeer, "GLU
// Variants Improve Transformer" (arXiv 2002.05202).
#pragma once

#include <type_traits>

#include "dropbp/kernels/cpu/swiglu.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// out [rows, m] = silu(gate) * up. Each row of gate_up [rows, 2 m] holds gate, then up.
template <class T, class Backend = Cpu>
void swiglu_forward(MatrixView<T, Backend> out,
                    std::type_identity_t<MatrixView<const T, Backend>> gate_up) {
  kernels<op::swiglu, T, Backend>::forward(out, gate_up);
}

/// In one pass: computes grad_gate_up [rows, 2 m], and recomputes out in place. out_gradient [rows,
/// m] holds the gradient of out on entry and out itself on return, which the weight gradient of the
/// down projection needs.
template <class T, class Backend = Cpu>
void swiglu_backward(MatrixView<T, Backend> grad_gate_up,
                     std::type_identity_t<MatrixView<T, Backend>> out_gradient,
                     std::type_identity_t<MatrixView<const T, Backend>> gate_up) {
  kernels<op::swiglu, T, Backend>::backward(grad_gate_up, out_gradient, gate_up);
}

}  // namespace ops
DROPBP_NAMESPACE_END
