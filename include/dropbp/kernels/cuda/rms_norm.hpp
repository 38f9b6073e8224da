// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// RMSNorm on CUDA, y = w * x / sqrt(mean(x^2) + eps). The forward pass alone or fused with the
// preceding addition; the backward pass fused with the addition to the residual gradient. See
// ops/rms_norm.hpp.
#pragma once

#include "dropbp/kernels/cuda/backend.hpp"
#include "dropbp/kernels/cuda/norm.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {

/// y [rows, columns] = norm(x), rstd [rows] = 1 / sqrt(mean(x^2) + eps). y may be x.
template <class Launcher, class T>
void rms_norm_forward(Launcher& launch, Rows<T> y, float* rstd,
                      std::type_identity_t<Rows<const T>> x, const T* w, Index rows, Index columns,
                      double eps) {
  detail::norm_forward<false, false>(launch, y, nullptr, rstd, x, Rows<T>{}, Rows<const T>{}, w,
                                     static_cast<const T*>(nullptr), rows, columns, eps);
}

/// sum [rows, columns] += branch, then y = norm(sum). Moves 8 bytes per element in 16-bit types;
/// two separate kernels move 10.
template <class Launcher, class T>
void add_rms_norm_forward(Launcher& launch, Rows<T> y, float* rstd, Rows<T> sum,
                          std::type_identity_t<Rows<const T>> branch, const T* w, Index rows,
                          Index columns, double eps) {
  detail::norm_forward<false, true>(launch, y, nullptr, rstd, Rows<const T>{}, sum, branch, w,
                                    static_cast<const T*>(nullptr), rows, columns, eps);
}

/// Recomputes y from the rstd of the forward pass, with the same bits.
template <class Launcher, class T>
void rms_norm_recompute(Launcher& launch, Rows<T> y, std::type_identity_t<Rows<const T>> x,
                        const T* w, const float* rstd, Index rows, Index columns) {
  detail::norm_recompute<false>(launch, y, x, w, static_cast<const T*>(nullptr), nullptr, rstd,
                                rows, columns);
}

/// Number of elements of rms_norm_backward's workspace if the weight is trained.
inline Index rms_norm_backward_workspace(Index rows, Index columns) {
  return detail::norm_backward_blocks(rows) * columns;
}

/// dx [rows, columns] (=|+=) the gradient of x, given the gradient of y; skipped if dx.data is
/// null. dw [columns] (=|+=) the gradient of w; null if frozen. Adding to dx adds to the gradient
/// of the residual path: in 16-bit types this moves 8 bytes per element, a separate addition 12
/// bytes. If the weight is trained, a block takes 4 * columns + 32 bytes of shared memory.
template <class Launcher, class T>
void rms_norm_backward(Launcher& launch, Rows<T> dx, bool add,
                       std::type_identity_t<Rows<const T>> dy,
                       std::type_identity_t<Rows<const T>> x, const T* w, const float* rstd, T* dw,
                       bool add_to_dw, float* workspace, Index rows, Index columns) {
  detail::norm_backward<false>(launch, dx, add, dy, x, w, nullptr, rstd,
                               dw != nullptr ? workspace : nullptr, rows, columns);
  if (dw != nullptr && columns > 0)
    detail::sum_shares(launch, dw, add_to_dw, workspace, detail::norm_backward_blocks(rows),
                       columns);
}

}  // namespace cuda

namespace ops {

/// See kernels/cpu/rms_norm.hpp. Launches into the current CUDA stream.
template <cuda::Scalar T, cuda::BodyBackend Backend>
struct kernels<op::rms_norm, T, Backend> {
  using View = MatrixView<T, Backend>;             ///< of outputs
  using ConstView = MatrixView<const T, Backend>;  ///< of inputs

  /// Computes y and rstd.
  static void forward(View y, float* rstd, ConstView x, const T* w, double eps);
  /// Computes the same y from rstd.
  static void recompute(View y, ConstView x, const T* w, const float* rstd);
  /// Number of elements of backward's workspace.
  static Index backward_workspace(Index rows, Index columns) {
    return cuda::rms_norm_backward_workspace(rows, columns);
  }
  /// Computes the gradients. grad_weight is null if the weight is frozen.
  static void backward(View grad_input, Accumulate mode, ConstView grad_output, ConstView x,
                       const T* w, const float* rstd, T* grad_weight, Accumulate weight_mode,
                       float* workspace);
};

template <cuda::Scalar T, cuda::BodyBackend Backend>
void kernels<op::rms_norm, T, Backend>::forward(View y, float* rstd, ConstView x, const T* w,
                                                double eps) {
  auto launch = device_launcher<Backend>::current();
  cuda::rms_norm_forward(launch, cuda::rows_of(y), rstd, cuda::rows_of(x), w, x.rows, x.columns,
                         eps);
}

template <cuda::Scalar T, cuda::BodyBackend Backend>
void kernels<op::rms_norm, T, Backend>::recompute(View y, ConstView x, const T* w,
                                                  const float* rstd) {
  auto launch = device_launcher<Backend>::current();
  cuda::rms_norm_recompute(launch, cuda::rows_of(y), cuda::rows_of(x), w, rstd, x.rows, x.columns);
}

template <cuda::Scalar T, cuda::BodyBackend Backend>
void kernels<op::rms_norm, T, Backend>::backward(View grad_input, Accumulate mode,
                                                 ConstView grad_output, ConstView x, const T* w,
                                                 const float* rstd, T* grad_weight,
                                                 Accumulate weight_mode, float* workspace) {
  auto launch = device_launcher<Backend>::current();
  cuda::rms_norm_backward(launch, cuda::rows_of(grad_input), mode == Accumulate::add,
                          cuda::rows_of(grad_output), cuda::rows_of(x), w, rstd, grad_weight,
                          weight_mode == Accumulate::add, workspace, x.rows, x.columns);
}

}  // namespace ops
DROPBP_NAMESPACE_END
