// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The gate of SwiGLU, silu(gate) * up with silu(g) = g / (1 + exp(-g)). Source: Shazeer, "GLU
// Variants Improve Transformer" (arXiv 2002.05202).
#pragma once

#include <type_traits>

#include "dropbp/kernels/cpu/swiglu.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// out [rows, m] = silu(gate) * up, with gate_up [rows, 2 m]: gate in the first half of a row, up
/// in the second.
template <class T, class Backend = Cpu>
void swiglu_forward(MatrixView<T, Backend> out,
                    std::type_identity_t<MatrixView<const T, Backend>> gate_up) {
  kernels<op::swiglu, T, Backend>::forward(out, gate_up);
}

/// In one pass over the rows: grad_gate_up [rows, 2 m] from the gradient of out, and out itself
/// recomputed over it: out_gradient [rows, m] holds d loss / d out on entry and out on return,
/// ready for the down projection's weight gradient.
template <class T, class Backend = Cpu>
void swiglu_backward(MatrixView<T, Backend> grad_gate_up,
                     std::type_identity_t<MatrixView<T, Backend>> out_gradient,
                     std::type_identity_t<MatrixView<const T, Backend>> gate_up) {
  kernels<op::swiglu, T, Backend>::backward(grad_gate_up, out_gradient, gate_up);
}

}  // namespace ops
DROPBP_NAMESPACE_END
