// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A soft cap, y = cap * tanh(x / cap), as Gemma 2 puts on its logits. Source: Bello et al., "Neural
// Combinatorial Optimization with Reinforcement Learning" (arXiv 1611.09940). There are kernels for
// the CPU alone.
#pragma once

#include <concepts>
#include <type_traits>

#include "dropbp/kernels/cpu/softcap.hpp"
#include "dropbp/ops/bias.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// y = cap * tanh(y / cap). Throws std::invalid_argument on a device.
template <class T, class Backend = Cpu>
void softcap_forward(MatrixView<T, Backend> y, double cap) {
  if constexpr (detail::is_plain<T, Backend>)
    kernels<op::softcap, T, Backend>::forward(y, cap);
  else
    detail::refuse_without_kernel("a soft cap");
}

/// The gradient of y becomes that of the uncapped values, in place; y is what softcap_forward
/// wrote.
template <class T, class Backend = Cpu>
void softcap_backward(MatrixView<T, Backend> grad,
                      std::type_identity_t<MatrixView<const T, Backend>> y, double cap) {
  if constexpr (detail::is_plain<T, Backend>)
    kernels<op::softcap, T, Backend>::backward(grad, y, cap);
  else
    detail::refuse_without_kernel("a soft cap");
}

}  // namespace ops
DROPBP_NAMESPACE_END
