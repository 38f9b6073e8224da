// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Compiles the kernels that no op of the library uses (for models like GPT-2, for fused layers and
// beside cuDNN) for one scalar type. The command line defines it as SCALAR.
#include "dropbp/backend/cuda/launch.cuh"
#include "dropbp/kernels/cuda/elementwise.hpp"
#include "dropbp/kernels/cuda/gelu.hpp"
#include "dropbp/kernels/cuda/layer_norm.hpp"
#include "dropbp/kernels/cuda/rms_norm.hpp"

namespace dropbp::cuda {

template <class T>
void launch_all(CudaLauncher launch, Rows<T> y, Rows<const T> x, float* mean, float* rstd,
                const T* w, T* dw, float* workspace, Index rows, Index columns) {
  add_parts(launch, y, w, 2, rows, columns);
  gelu_forward(launch, y, x, rows, columns);
  gelu_backward(launch, y, x, x, rows, columns);
  add_rms_norm_forward(launch, y, rstd, y, x, w, rows, columns, 1e-5);
  layer_norm_forward(launch, y, mean, rstd, x, w, w, rows, columns, 1e-5);
  add_layer_norm_forward(launch, y, mean, rstd, y, x, w, w, rows, columns, 1e-5);
  layer_norm_recompute(launch, y, x, w, w, mean, rstd, rows, columns);
  layer_norm_backward(launch, y, true, x, x, w, mean, rstd, dw, dw, true, workspace, rows, columns);
}

template void launch_all<SCALAR>(CudaLauncher, Rows<SCALAR>, Rows<const SCALAR>, float*, float*,
                                 const SCALAR*, SCALAR*, float*, Index, Index);

}  // namespace dropbp::cuda
