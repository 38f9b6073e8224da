// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Matrix products by cuBLASLt, for any compiler; their code is in gemm.cuh.
#pragma once

#include "dropbp/kernels/cuda/backend.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// T is float, BFloat16 or Half; sums are kept in float, and float is never rounded to TF32. An
/// emulated backend brings its own.
template <cuda::Scalar T>
struct kernels<op::gemm, T, Cuda> {
  /// See ops/gemm.hpp. Gives the same bits each time. Throws std::invalid_argument for sizes that
  /// are negative or rows that overlap, std::runtime_error, with the shapes, where cuBLASLt fails.
  static void run(GemmLayout layout, MatrixView<T, Cuda> c, MatrixView<const T, Cuda> a,
                  MatrixView<const T, Cuda> b, Accumulate mode);
};

}  // namespace ops
DROPBP_NAMESPACE_END
