// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The bias of a linear map: y = x W^T + b. There are kernels for float and double on the CPU
// alone.
#pragma once

#include <concepts>
#include <string>
#include <type_traits>

#include "dropbp/kernels/cpu/bias.hpp"
#include "dropbp/ops/parameter.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {
namespace detail {

// Float or double on the CPU: the only place of some kernels.
template <class T, class Backend>
inline constexpr bool is_plain = std::same_as<Backend, Cpu> && std::floating_point<T>;

[[noreturn]] inline void refuse_without_kernel(const char* what) {
  throw_invalid(std::string(what) + " is computed in float or double on the CPU",
                "another device or type was given", "run this model on the CPU in float");
}

}  // namespace detail

/// Each row of y [tokens, output] += bias [output, 1]. Throws std::invalid_argument on a device.
template <class T, class Backend = Cpu>
void add_bias(MatrixView<T, Backend> y, const Parameter<T, Backend>& bias) {
  if constexpr (detail::is_plain<T, Backend>)
    kernels<op::bias, T, Backend>::add(y, bias.value().data);
  else
    detail::refuse_without_kernel("a bias");
}

/// Computes the gradient of a trained bias: the sum of the rows of grad_output [tokens, output].
/// The bits do not depend on the number of threads.
template <class T, class Backend = Cpu>
void bias_backward(std::type_identity_t<MatrixView<const T, Backend>> grad_output,
                   Parameter<T, Backend>& bias) {
  if (!bias.trained || bias.size() == 0) return;
  if constexpr (detail::is_plain<T, Backend>) {
    const Accumulate mode = bias.begin_gradient();
    kernels<op::bias, T, Backend>::gradient(bias.gradient().data, mode, grad_output);
  } else {
    detail::refuse_without_kernel("a bias");
  }
}

}  // namespace ops
DROPBP_NAMESPACE_END
