// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Matrix products on the CPU, with the same bits for any number of threads. There are two engines:
// the library's own (gemm_blocked.hpp), and Eigen (gemm_eigen.hpp) if DROPBP_EIGEN_PRODUCTS is
// defined or the compiler has no vector types. With DROPBP_BLAS_PRODUCTS (CMake: DROPBP_USE_BLAS) a
// BLAS computes the large products of float and double; its bits may differ. Define these macros
// for the whole program or not at all.
#pragma once

#include <concepts>
#include <type_traits>

#include "dropbp/kernels/cpu/simd.hpp"
#include "dropbp/kernels/kernels.hpp"
#if defined(DROPBP_EIGEN_PRODUCTS) || !defined(__GNUC__)
#include "dropbp/kernels/cpu/gemm_eigen.hpp"
#else
#define DROPBP_BLOCKED_PRODUCTS
#include "dropbp/kernels/cpu/gemm_blocked.hpp"
#endif
#if defined(DROPBP_BLAS_PRODUCTS)
#include "dropbp/kernels/cpu/gemm_eigen.hpp"
#endif

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// See ops/gemm.hpp, which checks the shapes.
template <HostScalar T>
struct kernels<op::gemm, T, Cpu> {
  /// C = or += the product. C must not overlap A or B. Its elements are T or Statistic<T>, the type
  /// of the sums.
  template <class C>
    requires(std::same_as<C, T> || std::same_as<C, Statistic<T>>)
  static void run(GemmLayout layout, MatrixView<C> c, MatrixView<const T> a, MatrixView<const T> b,
                  Accumulate mode) {
    const Index depth = layout == GemmLayout::tn ? a.rows : a.columns;
#if defined(DROPBP_BLAS_PRODUCTS)
    // Small products gain nothing from the BLAS. Inside a parallel loop its threads would compete
    // with the library's own.
    if constexpr (std::is_floating_point_v<T>)
      if (!in_parallel() && c.rows * c.columns * depth >= 128 * 128 * 128)
        return detail::blas_product<T>(layout, c, a, b, mode);
#endif
#if !defined(DROPBP_BLOCKED_PRODUCTS)
    detail::eigen_product<T>(layout, c, a, b, depth, mode);
#else
    const detail::Operand<T> rows{a.data, a.stride, layout != GemmLayout::tn};
    const detail::Operand<T> columns{b.data, b.stride, layout == GemmLayout::nt};
    detail::machine_product(c, rows, columns, depth, mode);
#endif
  }
};

}  // namespace ops
DROPBP_NAMESPACE_END
