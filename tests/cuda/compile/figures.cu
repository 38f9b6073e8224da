// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Kernels whose registers and instructions check_figures.cmake compares with its table.
#include "dropbp/backend/cuda/launch.cuh"
#include "dropbp/kernels/cuda/attention_mma.hpp"
#include "dropbp/kernels/cuda/attention_mma_backward.hpp"
#include "dropbp/kernels/cuda/fp8.hpp"
#include "dropbp/kernels/cuda/norm.hpp"
#include "dropbp/kernels/cuda/swiglu.hpp"

namespace dropbp::cuda {

using T = BFloat16;
using Out = Rows<T>;
using In = Rows<const T>;
namespace kernel = detail;

template __global__ void run_body(kernel::MapPacks<kernel::SwigluForwardMap<T, 8>>,
                                  kernel::SwigluForwardMap<T, 8>, Index, Index);
template __global__ void run_body(kernel::MapPacks<kernel::SwigluBackwardMap<T, 8>>,
                                  kernel::SwigluBackwardMap<T, 8>, Index, Index);
template __global__ void run_body(kernel::NormForward<T, 8, false, false>, Out, float*, float*, In,
                                  Out, In, const T*, const T*, Index, float);
template __global__ void run_body(kernel::NormForward<T, 8, false, true>, Out, float*, float*, In,
                                  Out, In, const T*, const T*, Index, float);
template __global__ void run_body(kernel::NormBackward<T, 8, false>, Out, bool, In, In, const T*,
                                  const float*, const float*, float*, Index, Index, Index);
template __global__ void run_body(kernel::AttentionForwardMma<64>, Out, float*, In, AttentionShape,
                                  float, bool);
template __global__ void run_body(kernel::AttentionBackwardQueriesMma<64>, Out, In, In,
                                  const float*, const float*, AttentionShape, float, bool);
template __global__ void run_body(kernel::AttentionBackwardKeysMma<64>, Out, In, In, const float*,
                                  const float*, AttentionShape, float, bool);
template __global__ void run_body(kernel::Fp8Quantize<T, 8>, Rows<std::uint8_t>, float*, In, Index,
                                  Index);
template __global__ void run_body(kernel::AttentionForwardMma<128>, Out, float*, In, AttentionShape,
                                  float, bool);
template __global__ void run_body(kernel::AttentionBackwardQueriesMma<128>, Out, In, In,
                                  const float*, const float*, AttentionShape, float, bool);
template __global__ void run_body(kernel::AttentionBackwardKeysMma<128>, Out, In, In, const float*,
                                  const float*, AttentionShape, float, bool);

}  // namespace dropbp::cuda
