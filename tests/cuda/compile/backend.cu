// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Every kernel of the CUDA backend for one scalar, which the command line defines as SCALAR.
#include "dropbp/dropbp.cuh"

#include "dropbp/backend/cuda/layer_norm.hpp"

DROPBP_INSTANTIATE_CUDA(SCALAR)

// Those that no op of the library's own calls.
void launch_the_others(dropbp::cuda::CudaLauncher& launch) {
  using namespace dropbp::cuda;
  const Rows<SCALAR> x{};
  const SCALAR* const w = nullptr;
  float* const statistic = nullptr;
  SCALAR* const gradient = nullptr;
  add_rms_norm_forward(launch, x, statistic, x, x, w, 1, 1, 1e-5);
  layer_norm_forward(launch, x, statistic, statistic, x, w, w, 1, 1, 1e-5);
  add_layer_norm_forward(launch, x, statistic, statistic, x, x, w, w, 1, 1, 1e-5);
  layer_norm_recompute(launch, x, x, w, w, statistic, statistic, 1, 1);
  layer_norm_backward(launch, x, true, x, x, w, statistic, statistic, gradient, gradient, true, statistic, 1, 1);
  gelu_forward(launch, x, x, 1, 1);
  gelu_backward(launch, x, x, x, 1, 1);
}
