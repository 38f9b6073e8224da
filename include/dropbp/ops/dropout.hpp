// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Dropout whose masks are drawn anew where they are needed, never kept.
#pragma once

#include <cstdint>
#include <type_traits>

#include "dropbp/kernels/cpu/dropout.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// Which micro-step of the training it is: dropout masks are a pure function of it, drawn anew
/// where they are needed.
struct MicroStepId {
  std::uint64_t seed = 0;        ///< of the training
  std::uint64_t step = 0;        ///< optimizer step
  std::uint32_t micro_step = 0;  ///< from 0
  bool training = true;          ///< false: nothing is dropped out (evaluation)
};

/// y = dropout(x) of this micro-step, kept elements divided by 1 - rate; `stream` tells linear maps
/// apart. A pure function of its arguments: the backward pass draws the same mask again instead of
/// keeping it. y may be x.
template <class T, class Backend = Cpu>
void dropout(MatrixView<T, Backend> y, std::type_identity_t<MatrixView<const T, Backend>> x,
             double rate, const MicroStepId& moment, std::uint64_t stream) {
  kernels<op::dropout, T, Backend>::run(y, x, rate, moment.seed ^ stream, moment.step,
                                        moment.micro_step);
}

}  // namespace ops
DROPBP_NAMESPACE_END
