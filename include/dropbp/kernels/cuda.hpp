// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The operations on CUDA, for any compiler. Include this header beside the ops in every file that
// computes on a GPU. The code is compiled where a .cu file of the program says
// DROPBP_INSTANTIATE_CUDA (dropbp.cuh). If the linker reports an undefined member of
// dropbp::ops::kernels, the program has no such line.
#pragma once

#include <cstddef>

#include "dropbp/backend/cuda/device.hpp"
#include "dropbp/kernels/cuda/adamw.hpp"
#include "dropbp/kernels/cuda/attention.hpp"
#include "dropbp/kernels/cuda/cross_entropy.hpp"
#include "dropbp/kernels/cuda/dropout.hpp"
#include "dropbp/kernels/cuda/elementwise.hpp"
#include "dropbp/kernels/cuda/embedding.hpp"
#include "dropbp/kernels/cuda/fp8.hpp"
#include "dropbp/kernels/cuda/gemm.hpp"
#include "dropbp/kernels/cuda/nf4.hpp"
#include "dropbp/kernels/cuda/rms_norm.hpp"
#include "dropbp/kernels/cuda/rope.hpp"
#include "dropbp/kernels/cuda/squared_norms.hpp"
#include "dropbp/kernels/cuda/swiglu.hpp"

// Instantiates all operations for one scalar type. `keyword` is `template` where they are compiled,
// `extern template` elsewhere. A new operation adds an include above and an entry to this list.
// kernels/cuda/gelu.hpp and layer_norm.hpp are not in it, because no operation of ops uses them:
// programs with such layers call their functions directly.
#define DROPBP_FOR_CUDA_KERNELS(keyword, T)                                             \
  keyword struct dropbp::ops::kernels<dropbp::ops::op::adamw, T, dropbp::Cuda>;         \
  keyword struct dropbp::ops::kernels<dropbp::ops::op::attention, T, dropbp::Cuda>;     \
  keyword struct dropbp::ops::kernels<dropbp::ops::op::cross_entropy, T, dropbp::Cuda>; \
  keyword struct dropbp::ops::kernels<dropbp::ops::op::dropout, T, dropbp::Cuda>;       \
  keyword struct dropbp::ops::kernels<dropbp::ops::op::elementwise, T, dropbp::Cuda>;   \
  keyword struct dropbp::ops::kernels<dropbp::ops::op::embedding, T, dropbp::Cuda>;     \
  keyword struct dropbp::ops::kernels<dropbp::ops::op::fp8, T, dropbp::Cuda>;           \
  keyword struct dropbp::ops::kernels<dropbp::ops::op::fp8_gemm, T, dropbp::Cuda>;      \
  keyword struct dropbp::ops::kernels<dropbp::ops::op::gemm, T, dropbp::Cuda>;          \
  keyword struct dropbp::ops::kernels<dropbp::ops::op::nf4, T, dropbp::Cuda>;           \
  keyword struct dropbp::ops::kernels<dropbp::ops::op::rms_norm, T, dropbp::Cuda>;      \
  keyword struct dropbp::ops::kernels<dropbp::ops::op::rope, T, dropbp::Cuda>;          \
  keyword struct dropbp::ops::kernels<dropbp::ops::op::squared_norms, T, dropbp::Cuda>; \
  keyword struct dropbp::ops::kernels<dropbp::ops::op::swiglu, T, dropbp::Cuda>;

DROPBP_FOR_CUDA_KERNELS(extern template, float)
DROPBP_FOR_CUDA_KERNELS(extern template, dropbp::BFloat16)
DROPBP_FOR_CUDA_KERNELS(extern template, dropbp::Half)

DROPBP_NAMESPACE_BEGIN

/// See the primary template. The norms wait for the current CUDA stream, except the deferred one.
template <cuda::BodyBackend Backend, cuda::Scalar T>
struct backend_kernels<Backend, T> {
  /// y += x.
  static void accumulate(T* y, const T* x, std::size_t n) {
    ops::kernels<ops::op::elementwise, T, Backend>::accumulate(y, x, n);
  }
  /// y *= factor.
  static void scale(T* y, double factor, std::size_t n) {
    ops::kernels<ops::op::elementwise, T, Backend>::scale(y, factor, n);
  }
  /// Sum of x^2.
  static double squared_norm(const T* x, std::size_t n) {
    const ops::Elements<const T, Backend> tensor(x, n);
    return ops::kernels<ops::op::squared_norms, T, Backend>::run({&tensor, 1}).front();
  }
  /// The same, which stays on the device until it is read.
  static DeferredNumber deferred_squared_norm(const T* x, std::size_t n) {
    const ops::Elements<const T, Backend> tensor(x, n);
    return ops::kernels<ops::op::squared_norms, T, Backend>::deferred({&tensor, 1}).front();
  }
  /// Sum of (x - y)^2.
  static double squared_distance(const T* x, const T* y, std::size_t n) {
    return ops::kernels<ops::op::squared_norms, T, Backend>::distance(x, y, n);
  }
};

DROPBP_NAMESPACE_END
