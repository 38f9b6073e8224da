// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Ops of views for the kernels that no op of the library uses yet: LayerNorm, GELU, and an addition
// fused with a norm. Any compiler can read the declarations; more_ops.cu compiles them for CUDA.
#pragma once

#include "dropbp/kernels/matrix.hpp"

namespace test {

template <class T, class Backend>
struct more_ops {
  using Index = dropbp::ops::Index;
  using View = dropbp::ops::MatrixView<T, Backend>;
  using ConstView = dropbp::ops::MatrixView<const T, Backend>;

  static void add_rms_norm_forward(View y, float* rstd, View sum, ConstView branch, const T* w,
                                   double eps);
  static void layer_norm_forward(View y, float* mean, float* rstd, ConstView x, const T* w,
                                 const T* b, double eps);
  static void add_layer_norm_forward(View y, float* mean, float* rstd, View sum, ConstView branch,
                                     const T* w, const T* b, double eps);
  static void layer_norm_recompute(View y, ConstView x, const T* w, const T* b, const float* mean,
                                   const float* rstd);
  static Index layer_norm_backward_workspace(Index rows, Index columns);
  // Null dw and db: the weights are frozen.
  static void layer_norm_backward(View dx, bool add, ConstView dy, ConstView x, const T* w,
                                  const float* mean, const float* rstd, T* dw, T* db,
                                  bool add_to_dw, float* workspace);
  static void gelu_forward(View out, ConstView in);
  static void gelu_backward(View grad_in, ConstView grad_out, ConstView in);
};

}  // namespace test

#if defined(__CUDACC__) || defined(DROPBP_TEST_EMULATED)

#include "dropbp/kernels/cuda/gelu.hpp"
#include "dropbp/kernels/cuda/layer_norm.hpp"
#include "dropbp/kernels/cuda/rms_norm.hpp"

namespace test {

using dropbp::device_launcher;
using dropbp::cuda::rows_of;
namespace bodies = dropbp::cuda;

template <class T, class Backend>
void more_ops<T, Backend>::add_rms_norm_forward(View y, float* rstd, View sum, ConstView branch,
                                                const T* w, double eps) {
  auto launch = device_launcher<Backend>::current();
  bodies::add_rms_norm_forward(launch, rows_of(y), rstd, rows_of(sum), rows_of(branch), w, y.rows,
                               y.columns, eps);
}

template <class T, class Backend>
void more_ops<T, Backend>::layer_norm_forward(View y, float* mean, float* rstd, ConstView x,
                                              const T* w, const T* b, double eps) {
  auto launch = device_launcher<Backend>::current();
  bodies::layer_norm_forward(launch, rows_of(y), mean, rstd, rows_of(x), w, b, y.rows, y.columns,
                             eps);
}

template <class T, class Backend>
void more_ops<T, Backend>::add_layer_norm_forward(View y, float* mean, float* rstd, View sum,
                                                  ConstView branch, const T* w, const T* b,
                                                  double eps) {
  auto launch = device_launcher<Backend>::current();
  bodies::add_layer_norm_forward(launch, rows_of(y), mean, rstd, rows_of(sum), rows_of(branch), w,
                                 b, y.rows, y.columns, eps);
}

template <class T, class Backend>
void more_ops<T, Backend>::layer_norm_recompute(View y, ConstView x, const T* w, const T* b,
                                                const float* mean, const float* rstd) {
  auto launch = device_launcher<Backend>::current();
  bodies::layer_norm_recompute(launch, rows_of(y), rows_of(x), w, b, mean, rstd, y.rows, y.columns);
}

template <class T, class Backend>
dropbp::ops::Index more_ops<T, Backend>::layer_norm_backward_workspace(Index rows, Index columns) {
  return bodies::layer_norm_backward_workspace(rows, columns);
}

template <class T, class Backend>
void more_ops<T, Backend>::layer_norm_backward(View dx, bool add, ConstView dy, ConstView x,
                                               const T* w, const float* mean, const float* rstd,
                                               T* dw, T* db, bool add_to_dw, float* workspace) {
  auto launch = device_launcher<Backend>::current();
  bodies::layer_norm_backward(launch, rows_of(dx), add, rows_of(dy), rows_of(x), w, mean, rstd, dw,
                              db, add_to_dw, workspace, x.rows, x.columns);
}

template <class T, class Backend>
void more_ops<T, Backend>::gelu_forward(View out, ConstView in) {
  auto launch = device_launcher<Backend>::current();
  bodies::gelu_forward(launch, rows_of(out), rows_of(in), out.rows, out.columns);
}

template <class T, class Backend>
void more_ops<T, Backend>::gelu_backward(View grad_in, ConstView grad_out, ConstView in) {
  auto launch = device_launcher<Backend>::current();
  bodies::gelu_backward(launch, rows_of(grad_in), rows_of(grad_out), rows_of(in), in.rows,
                        in.columns);
}

}  // namespace test

#endif
