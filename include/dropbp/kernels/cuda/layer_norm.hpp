// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// LayerNorm as in GPT-2, y = w * (x - mean) / sqrt(mean((x - mean)^2) + eps) + b. The forward pass
// alone or fused with the preceding addition; the backward pass fused with the addition to the
// residual gradient. Source: Ba et al., "Layer Normalization" (arXiv 1607.06450).
#pragma once

#include "dropbp/kernels/cuda/norm.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {

/// y [rows, columns] = norm(x), mean [rows] = the mean of each row of x, rstd [rows] = 1 /
/// sqrt(mean((x - mean)^2) + eps). w, b [columns]. y may be x.
template <class Launcher, class T>
void layer_norm_forward(Launcher& launch, Rows<T> y, float* mean, float* rstd,
                        std::type_identity_t<Rows<const T>> x, const T* w, const T* b, Index rows,
                        Index columns, double eps) {
  detail::norm_forward<true, false>(launch, y, mean, rstd, x, Rows<T>{}, Rows<const T>{}, w, b,
                                    rows, columns, eps);
}

/// sum [rows, columns] += branch, then y = norm(sum).
template <class Launcher, class T>
void add_layer_norm_forward(Launcher& launch, Rows<T> y, float* mean, float* rstd, Rows<T> sum,
                            std::type_identity_t<Rows<const T>> branch, const T* w, const T* b,
                            Index rows, Index columns, double eps) {
  detail::norm_forward<true, true>(launch, y, mean, rstd, Rows<const T>{}, sum, branch, w, b, rows,
                                   columns, eps);
}

/// Recomputes y from the mean and rstd of the forward pass, with the same bits.
template <class Launcher, class T>
void layer_norm_recompute(Launcher& launch, Rows<T> y, std::type_identity_t<Rows<const T>> x,
                          const T* w, const T* b, const float* mean, const float* rstd, Index rows,
                          Index columns) {
  detail::norm_recompute<true>(launch, y, x, w, b, mean, rstd, rows, columns);
}

/// Number of elements of layer_norm_backward's workspace if the weight is trained.
inline Index layer_norm_backward_workspace(Index rows, Index columns) {
  return 2 * detail::norm_backward_blocks(rows) * columns;
}

/// dx [rows, columns] (=|+=) the gradient of x, given the gradient of y; skipped if dx.data is
/// null. dw and db [columns] (=|+=) the gradients of w and b; both are null if frozen. Adding to dx
/// adds to the gradient of the residual path. If the weight is trained, a block takes 8 * columns +
/// 32 bytes of shared memory.
template <class Launcher, class T>
void layer_norm_backward(Launcher& launch, Rows<T> dx, bool add,
                         std::type_identity_t<Rows<const T>> dy,
                         std::type_identity_t<Rows<const T>> x, const T* w, const float* mean,
                         const float* rstd, T* dw, T* db, bool add_to_dw, float* workspace,
                         Index rows, Index columns) {
  detail::norm_backward<true>(launch, dx, add, dy, x, w, mean, rstd,
                              dw != nullptr ? workspace : nullptr, rows, columns);
  if (dw == nullptr || columns <= 0) return;
  const Index blocks = detail::norm_backward_blocks(rows);
  detail::sum_shares(launch, dw, add_to_dw, workspace, blocks, columns);
  detail::sum_shares(launch, db, add_to_dw, workspace + blocks * columns, blocks, columns);
}

}  // namespace cuda
DROPBP_NAMESPACE_END
