// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Products by cuBLASLt, for any compiler; their code is in blas.cuh, compiled by
// DROPBP_INSTANTIATE_CUDA(T) in a .cu file.
#pragma once

#include <cstddef>

#include "dropbp/backend/products.hpp"

DROPBP_NAMESPACE_BEGIN

/// T is float, BFloat16 or Half; sums are kept in float, and float is never rounded to TF32.
template <class T>
struct device_products<Cuda, T> {
  /// See the primary template. Throws std::runtime_error, with the shapes, where cuBLASLt fails.
  static void product(GemmLayout layout, std::ptrdiff_t m, std::ptrdiff_t n, std::ptrdiff_t k, T* c,
                      std::ptrdiff_t ldc, const T* a, std::ptrdiff_t lda, const T* b,
                      std::ptrdiff_t ldb, bool add);
};

DROPBP_NAMESPACE_END
