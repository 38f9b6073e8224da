// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// For .cu files: dropbp.hpp and the code of the CUDA backend. One .cu file of a program says
// DROPBP_INSTANTIATE_CUDA(T) for each T it computes with; all its other files include .hpp files
// alone and need no CUDA compiler. With DROPBP_CUDNN, and libcudnn to link with, cuDNN computes
// attention of BFloat16 and Half where it can.
#if !defined(__CUDACC__)
#error "dropbp: dropbp.cuh is for .cu files; other files include dropbp/dropbp.hpp"
#endif
#pragma once

#include "dropbp/backend/cuda/device.cuh"
#include "dropbp/backend/cuda/launch.cuh"
#include "dropbp/dropbp.hpp"
#include "dropbp/kernels/cuda.hpp"
#if defined(DROPBP_CUDNN)
#include "dropbp/kernels/cuda/cudnn.cuh"
#endif
#include "dropbp/kernels/cuda/gemm.cuh"

/// Compiles the CUDA backend for one scalar: float, dropbp::BFloat16 or dropbp::Half. Outside of
/// all namespaces.
#define DROPBP_INSTANTIATE_CUDA(T)                                                                \
  static_assert(dropbp::cuda::Scalar<T>,                                                          \
                "dropbp: DROPBP_INSTANTIATE_CUDA takes float, dropbp::BFloat16 or dropbp::Half"); \
  DROPBP_FOR_CUDA_KERNELS(template, T)
