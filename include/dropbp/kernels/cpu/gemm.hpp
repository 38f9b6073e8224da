// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Matrix products on the CPU, with the same bits for any number of threads. There are two engines:
// the library's own (gemm_blocked.hpp), and Eigen (gemm_eigen.hpp) if DROPBP_EIGEN_PRODUCTS is
// defined or the compiler has no vector types. With DROPBP_BLAS_PRODUCTS (CMake: DROPBP_USE_BLAS) a
// BLAS computes the large products; its bits may differ. Define these macros for the whole program
// or not at all.
#pragma once

#include <concepts>

#include "dropbp/kernels/kernels.hpp"
#if defined(DROPBP_EIGEN_PRODUCTS) || !defined(__GNUC__)
#include "dropbp/kernels/cpu/gemm_eigen.hpp"
#else
#include "dropbp/kernels/cpu/gemm_blocked.hpp"
#endif
#if defined(DROPBP_BLAS_PRODUCTS)
#include "dropbp/kernels/cpu/gemm_eigen.hpp"
#endif

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// See ops/gemm.hpp, which checks the shapes.
template <std::floating_point T>
struct kernels<op::gemm, T, Cpu> {
  /// C = or += the product. C must not overlap A or B.
  static void run(GemmLayout layout, MatrixView<T> c, MatrixView<const T> a, MatrixView<const T> b,
                  Accumulate mode) {
    switch (layout) {
      case GemmLayout::nt:
        return product<false, true>(c, a, b, mode);
      case GemmLayout::nn:
        return product<false, false>(c, a, b, mode);
      case GemmLayout::tn:
        return product<true, false>(c, a, b, mode);
    }
  }

 private:
  template <bool a_transposed, bool b_transposed>
  static void product(MatrixView<T> c, MatrixView<const T> a, MatrixView<const T> b,
                      Accumulate mode) {
    const Index rows = c.rows, columns = c.columns, depth = a_transposed ? a.rows : a.columns;
#if defined(DROPBP_BLAS_PRODUCTS)
    // Small products gain nothing from the BLAS. Inside a parallel loop its threads would compete
    // with the library's own.
    if (!in_parallel() && rows * columns * depth >= 128 * 128 * 128)
      return detail::blas_product<T, a_transposed, b_transposed>(c, a, b, mode);
#endif
#if defined(DROPBP_EIGEN_PRODUCTS) || !defined(__GNUC__)
    detail::eigen_product<T, a_transposed, b_transposed>(c, a, b, rows, columns, depth, mode);
#else
    detail::blocked_product<T, a_transposed, b_transposed>(c, a, b, rows, columns, depth, mode);
#endif
  }
};

}  // namespace ops
DROPBP_NAMESPACE_END
