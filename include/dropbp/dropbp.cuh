// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// For .cu files: dropbp.hpp and the code of the CUDA backend. One .cu file of a program has
// DROPBP_INSTANTIATE_CUDA(T) for each scalar type T; all other files include only .hpp files and
// need no CUDA compiler. With DROPBP_CUDNN, and linked with libcudnn, attention of BFloat16 and
// Half uses cuDNN where cuDNN supports it.
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
#include "dropbp/kernels/cuda/fp8.cuh"
#include "dropbp/kernels/cuda/gemm.cuh"

/// Compiles the CUDA backend for one scalar: float, dropbp::BFloat16 or dropbp::Half. Use it
/// outside of all namespaces.
#define DROPBP_INSTANTIATE_CUDA(T)                                                                \
  static_assert(dropbp::cuda::Scalar<T>,                                                          \
                "dropbp: DROPBP_INSTANTIATE_CUDA takes float, dropbp::BFloat16 or dropbp::Half"); \
  DROPBP_FOR_CUDA_KERNELS(template, T)
