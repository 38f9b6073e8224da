// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Matrix products by cuBLASLt, for any compiler. The code is in gemm.cuh.
#pragma once

#include "dropbp/kernels/cuda/backend.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// T is float, BFloat16 or Half. Sums are accumulated in float, and float operands are never
/// rounded to TF32. An emulated backend has a specialisation of its own.
template <cuda::Scalar T>
struct kernels<op::gemm, T, Cuda> {
  /// See ops/gemm.hpp. Two runs give the same bits. Throws std::invalid_argument for negative sizes
  /// or overlapping rows, and std::runtime_error with the shapes if cuBLASLt fails.
  static void run(GemmLayout layout, MatrixView<T, Cuda> c, MatrixView<const T, Cuda> a,
                  MatrixView<const T, Cuda> b, Accumulate mode);
};

}  // namespace ops
DROPBP_NAMESPACE_END
