// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// RMSNorm, y = w * x / sqrt(mean(x^2) + eps), as in Hugging Face's LlamaRMSNorm. Source: Zhang and
// Sennrich, "Root Mean Square Layer Normalization" (NeurIPS 2019).
#pragma once

#include <type_traits>

#include "dropbp/kernels/cpu/rms_norm.hpp"
#include "dropbp/ops/parameter.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// y [rows, hidden] = norm(x), with weight w [hidden]. rstd [rows] = 1 / sqrt(mean(x^2) + eps),
/// which the backward pass needs.
template <class T, class Backend = Cpu>
void rms_norm_forward(MatrixView<T, Backend> y, Statistic<T>* rstd,
                      std::type_identity_t<MatrixView<const T, Backend>> x, const T* w,
                      double eps) {
  kernels<op::rms_norm, T, Backend>::forward(y, rstd, x, w, eps);
}

/// Recomputes y from rstd with the same bits, so that y need not be saved.
template <class T, class Backend = Cpu>
void rms_norm_recompute(MatrixView<T, Backend> y,
                        std::type_identity_t<MatrixView<const T, Backend>> x, const T* w,
                        const Statistic<T>* rstd) {
  kernels<op::rms_norm, T, Backend>::recompute(y, x, w, rstd);
}

/// grad_input (=|+=) the gradient of x, given the gradient of y. If grad_input.data is null,
/// computes only the weight's gradient. Accumulate::add adds the gradient of the residual path in
/// the same pass. Also computes the gradient of a trained weight; its sum over rows has fixed
/// chunks, so two runs give the same bits. `applied` is the w that multiplied in the forward pass,
/// where that is not the weight's own value.
template <class T, class Backend = Cpu>
void rms_norm_backward(MatrixView<T, Backend> grad_input, Accumulate mode,
                       std::type_identity_t<MatrixView<const T, Backend>> grad_output,
                       std::type_identity_t<MatrixView<const T, Backend>> x,
                       Parameter<T, Backend>& weight, const Statistic<T>* rstd,
                       BasicMemoryPool<Backend>& workspace, const T* applied = nullptr) {
  using Kernels = kernels<op::rms_norm, T, Backend>;
  Matrix<Statistic<T>, Backend> shares;
  Accumulate weight_mode = Accumulate::overwrite;
  if (weight.trained) {
    shares = {1, Kernels::backward_workspace(x.rows, x.columns), workspace};
    weight_mode = weight.begin_gradient();
  }
  Kernels::backward(grad_input, mode, grad_output, x,
                    applied != nullptr ? applied : weight.value().data, rstd,
                    weight.trained ? weight.gradient().data : nullptr, weight_mode, shares.data());
}

}  // namespace ops
DROPBP_NAMESPACE_END
