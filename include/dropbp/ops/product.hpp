// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The three matrix products of a linear map and its backward pass, on all threads, with the same
// bits on any number of them. Two engines: the library's own (product_kernel.hpp) and Eigen
// (product_eigen.hpp), where DROPBP_EIGEN_PRODUCTS is defined or the compiler has no vector types.
// With DROPBP_BLAS_PRODUCTS (CMake: DROPBP_USE_BLAS) the large ones go to a BLAS, whose bits are
// its own. Define such a macro for the whole program or not at all.
#pragma once

#include <algorithm>
#include <string>
#include <type_traits>

#include "dropbp/ops/matrix.hpp"
#if defined(DROPBP_EIGEN_PRODUCTS) || !defined(__GNUC__)
#include "dropbp/ops/product_eigen.hpp"
#else
#include "dropbp/ops/product_kernel.hpp"
#endif
#if defined(DROPBP_BLAS_PRODUCTS)
#include "dropbp/ops/product_eigen.hpp"
#endif

DROPBP_NAMESPACE_BEGIN
namespace ops {
namespace detail {

/// Throws std::invalid_argument where C, A and B, transposed as said, do not fit together.
template <class C, class AB>
void require_product(bool a_transposed, bool b_transposed, const C& c, const AB& a, const AB& b) {
  const Index rows = a_transposed ? a.columns : a.rows, depth = a_transposed ? a.rows : a.columns;
  const Index columns = b_transposed ? b.rows : b.columns,
              depth_of_b = b_transposed ? b.columns : b.rows;
  if (c.rows != rows || c.columns != columns || depth != depth_of_b)
    throw_invalid(std::string("a product ") +
                      (a_transposed   ? "A^T B"
                       : b_transposed ? "A B^T"
                                      : "A B") +
                      " needs sizes that fit together",
                  "C " + shape_text(c.rows, c.columns) + ", A " + shape_text(a.rows, a.columns) +
                      ", B " + shape_text(b.rows, b.columns) + " were given",
                  "check the shapes of the operands");
}

template <class T, bool a_transposed, bool b_transposed>
void product(MatrixView<T> c, MatrixView<const T> a, MatrixView<const T> b, Accumulate mode) {
  require_product(a_transposed, b_transposed, c, a, b);
  const Index rows = c.rows, columns = c.columns, depth = a_transposed ? a.rows : a.columns;
#if defined(DROPBP_BLAS_PRODUCTS)
  // Not from inside a parallel loop, where the library's threads would meet ours, nor what is not
  // worth handing over.
  if (!in_parallel() && rows * columns * depth >= 128 * 128 * 128)
    return blas_product<T, a_transposed, b_transposed>(c, a, b, mode);
#endif
#if defined(DROPBP_EIGEN_PRODUCTS) || !defined(__GNUC__)
  eigen_product<T, a_transposed, b_transposed>(c, a, b, rows, columns, depth, mode);
#else
  blocked_product<T, a_transposed, b_transposed>(c, a, b, rows, columns, depth, mode);
#endif
}

}  // namespace detail

/// C [m, n] = or += A [m, k] B^T, with B [n, k]: the forward pass of a linear map y = x W^T.
/// All three: C must not overlap A or B; the bits do not depend on the number of threads and, with
/// the library's own engine, neither on m and n, the position of an element or the width of the
/// machine's vectors. Throw std::invalid_argument for sizes that do not fit.
template <class T>
void gemm_nt(MatrixView<T> c, std::type_identity_t<MatrixView<const T>> a,
             std::type_identity_t<MatrixView<const T>> b, Accumulate mode = Accumulate::overwrite) {
  detail::product<T, false, true>(c, a, b, mode);
}

/// C [m, n] = or += A [m, k] B [k, n]: the gradient of a linear map's input, dx = dy W.
template <class T>
void gemm_nn(MatrixView<T> c, std::type_identity_t<MatrixView<const T>> a,
             std::type_identity_t<MatrixView<const T>> b, Accumulate mode = Accumulate::overwrite) {
  detail::product<T, false, false>(c, a, b, mode);
}

/// C [m, n] = or += A^T B, with A [k, m] and B [k, n]: the gradient of a linear map's weight, dW =
/// dy^T x.
template <class T>
void gemm_tn(MatrixView<T> c, std::type_identity_t<MatrixView<const T>> a,
             std::type_identity_t<MatrixView<const T>> b, Accumulate mode = Accumulate::overwrite) {
  detail::product<T, true, false>(c, a, b, mode);
}

}  // namespace ops
DROPBP_NAMESPACE_END
