// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Matrix products by Eigen (3.4 or newer), divided into strips for the threads. For compilers
// without vector types, and for trainers whose Eigen calls a BLAS (EIGEN_USE_BLAS). Eigen's own
// threads are not used, because the bits of its parallel product depend on their number.
#pragma once

#include <algorithm>
#include <type_traits>

#include <Eigen/Core>

#include "dropbp/backend/scalar.hpp"
#include "dropbp/kernels/cpu/parallel.hpp"
#include "dropbp/kernels/kernels.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops::detail {

// Rows of the output in one strip; columns, if the output has more columns than rows.
inline constexpr Index eigen_strip = 128;
// Rows of a strip in products with a single strip or too small for the library's threads. Up to
// this compile-time number of rows, Eigen never uses its own threads. Only the shape selects these
// strips, so the bits do not depend on the number of threads.
inline constexpr int eigen_small_strip = 32;
inline constexpr Index eigen_small_product = 64 * 64 * 64;  // multiply-adds

template <class T, bool a_transposed, bool b_transposed, int most_rows>
void eigen_strip_product(MatrixView<T> c, MatrixView<const T> a, MatrixView<const T> b,
                         Accumulate mode) {
  using Eigen::Dynamic;
  using Strip = Eigen::Matrix<T, Dynamic, Dynamic, Eigen::RowMajor, most_rows, Dynamic>;
  using Operand = Eigen::Matrix<T, Dynamic, Dynamic, Eigen::RowMajor>;
  using Stride = Eigen::OuterStride<>;
  Eigen::Map<Strip, Eigen::Unaligned, Stride> output(c.data, c.rows, c.columns, Stride(c.stride));
  const Eigen::Map<const Operand, Eigen::Unaligned, Stride> left(a.data, a.rows, a.columns,
                                                                 Stride(a.stride));
  const Eigen::Map<const Operand, Eigen::Unaligned, Stride> right(b.data, b.rows, b.columns,
                                                                  Stride(b.stride));
  const auto assign = [&](const auto& product) {
    if (mode == Accumulate::add)
      output.noalias() += product;
    else
      output.noalias() = product;
  };
  if constexpr (a_transposed)
    assign(left.transpose() * right);
  else if constexpr (b_transposed)
    assign(left * right.transpose());
  else
    assign(left * right);
}

template <class T, bool a_transposed, bool b_transposed>
void eigen_product(MatrixView<T> c, MatrixView<const T> a, MatrixView<const T> b, Index rows,
                   Index columns, Index depth, Accumulate mode) {
  if (rows == 0 || columns == 0) return;
  const auto row_strip = [&](auto most_rows, Index step, Index strip) {
    const Index first = strip * step, count = (std::min)(step, rows - first);
    eigen_strip_product<T, a_transposed, b_transposed, decltype(most_rows)::value>(
        c.rows_from(first, count),
        a_transposed ? a.columns_from(first, count) : a.rows_from(first, count), b, mode);
  };
  const auto strips = [](Index size, Index step) { return (size + step - 1) / step; };
  if (rows * columns * depth < eigen_small_product || (std::max)(rows, columns) <= eigen_strip) {
    using Small = std::integral_constant<int, eigen_small_strip>;
    for (Index strip = 0; strip < strips(rows, eigen_small_strip); ++strip)
      row_strip(Small{}, eigen_small_strip, strip);
  } else if (rows >= columns) {
    using Any = std::integral_constant<int, Eigen::Dynamic>;
    parallel_for(strips(rows, eigen_strip), eigen_small_product,
                 [&](Index strip) { row_strip(Any{}, eigen_strip, strip); });
  } else {
    parallel_for(strips(columns, eigen_strip), eigen_small_product, [&](Index strip) {
      const Index first = strip * eigen_strip, count = (std::min)(eigen_strip, columns - first);
      eigen_strip_product<T, a_transposed, b_transposed, Eigen::Dynamic>(
          c.columns_from(first, count), a,
          b_transposed ? b.rows_from(first, count) : b.columns_from(first, count), mode);
    });
  }
}

// As gemm_nt, gemm_nn or gemm_tn. BFloat16 is computed in float, on copies; C is BFloat16 or float.
template <class T, class C>
void eigen_product(GemmLayout layout, MatrixView<C> c, MatrixView<const T> a, MatrixView<const T> b,
                   Index depth, Accumulate mode) {
  if constexpr (!std::is_floating_point_v<T>) {
    const auto copy_of = [](const auto& from) {
      Matrix<float> copy(from.rows, from.columns);
      for (Index i = 0; i < from.rows; ++i)
        for (Index j = 0; j < from.columns; ++j) copy.row(i)[j] = to_float(from.row(i)[j]);
      return copy;
    };
    const Matrix<float> left = copy_of(a), right = copy_of(b);
    if constexpr (std::is_same_v<C, float>)
      return eigen_product<float>(layout, c, left.view(), right.view(), depth, mode);
    else {
      Matrix<float> sums = mode == Accumulate::add ? copy_of(c) : Matrix<float>(c.rows, c.columns);
      eigen_product<float>(layout, sums.view(), left.view(), right.view(), depth, mode);
      for (Index i = 0; i < c.rows; ++i)
        for (Index j = 0; j < c.columns; ++j) c.row(i)[j] = from_float<T>(sums.row(i)[j]);
    }
  } else if (layout == GemmLayout::nt) {
    eigen_product<T, false, true>(c, a, b, c.rows, c.columns, depth, mode);
  } else if (layout == GemmLayout::nn) {
    eigen_product<T, false, false>(c, a, b, c.rows, c.columns, depth, mode);
  } else {
    eigen_product<T, true, false>(c, a, b, c.rows, c.columns, depth, mode);
  }
}

#if defined(DROPBP_BLAS_PRODUCTS)
// Computed by the BLAS behind Eigen (EIGEN_USE_BLAS), with the threads of the BLAS.
template <class T>
void blas_product(GemmLayout layout, MatrixView<T> c, MatrixView<const T> a, MatrixView<const T> b,
                  Accumulate mode) {
#if !defined(EIGEN_USE_BLAS)
#error "dropbp: DROPBP_BLAS_PRODUCTS needs EIGEN_USE_BLAS and a BLAS: set -DDROPBP_USE_BLAS=ON."
#endif
  if (c.rows == 0 || c.columns == 0) return;
  if (layout == GemmLayout::nt)
    eigen_strip_product<T, false, true, Eigen::Dynamic>(c, a, b, mode);
  else if (layout == GemmLayout::nn)
    eigen_strip_product<T, false, false, Eigen::Dynamic>(c, a, b, mode);
  else
    eigen_strip_product<T, true, false, Eigen::Dynamic>(c, a, b, mode);
}
#endif

}  // namespace ops::detail
DROPBP_NAMESPACE_END
