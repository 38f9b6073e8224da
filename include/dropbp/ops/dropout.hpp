// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Dropout that recomputes its masks in the backward pass instead of storing them.
#pragma once

#include <cstdint>
#include <type_traits>

#include "dropbp/kernels/cpu/dropout.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// Identifies a micro-step of the training. Dropout masks are a pure function of this id.
struct MicroStepId {
  std::uint64_t seed = 0;        ///< of the training
  std::uint64_t step = 0;        ///< index of the optimizer step
  std::uint32_t micro_step = 0;  ///< index within the step, from 0
  bool training = true;          ///< false in evaluation: dropout changes nothing
};

/// y = dropout(x) for this micro-step: each element is 0 with probability `rate`, else x / (1 -
/// rate). `stream` is the key of a linear map's random sequence, so that maps have different masks.
/// A pure function of its arguments: the backward pass computes the same mask again. y may be x.
template <class T, class Backend = Cpu>
void dropout(MatrixView<T, Backend> y, std::type_identity_t<MatrixView<const T, Backend>> x,
             double rate, const MicroStepId& id, std::uint64_t stream) {
  kernels<op::dropout, T, Backend>::run(y, x, rate, id.seed ^ stream, id.step, id.micro_step);
}

}  // namespace ops
DROPBP_NAMESPACE_END
