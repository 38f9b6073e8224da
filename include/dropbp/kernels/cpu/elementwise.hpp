// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Elementwise operations on the CPU. See ops/elementwise.hpp.
#pragma once

#include <algorithm>
#include <cstring>

#include "dropbp/kernels/cpu/parallel.hpp"
#include "dropbp/kernels/cpu/simd.hpp"
#include "dropbp/kernels/kernels.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// See ops/elementwise.hpp.
template <HostScalar T>
struct kernels<op::elementwise, T, Cpu> {
  using S = Statistic<T>;  ///< what rows are computed in

  /// to = from.
  static void copy(MatrixView<T> to, MatrixView<const T> from) {
    parallel_for(from.rows, from.columns, [&](Index i) {
      std::memcpy(to.row(i), from.row(i), static_cast<std::size_t>(from.columns) * sizeof(T));
    });
  }

  /// y = 0.
  static void set_zero(MatrixView<T> y) {
    parallel_for(y.rows, y.columns, [&](Index i) { std::fill_n(y.row(i), y.columns, T{}); });
  }

  /// y += x.
  static void accumulate(MatrixView<T> y, MatrixView<const T> x) {
    parallel_for(y.rows, y.columns, [&](Index i) {
      T* const to = y.row(i);
      const T* const from = x.row(i);
      detail::with_vectors<S>([&](auto n) DROPBP_FORCE_INLINE {
        detail::for_each_piece<n>(y.columns, [&](Index j, auto piece) DROPBP_FORCE_INLINE {
          detail::store_piece(
              to + j,
              detail::load_piece(to + j, piece, S(0)) + detail::load_piece(from + j, piece, S(0)),
              piece);
        });
      });
    });
  }

  /// y *= factor, rounded to Statistic<T>.
  static void scale(MatrixView<T> y, double factor) {
    const S by = static_cast<S>(factor);
    parallel_for(y.rows, y.columns, [&](Index i) {
      T* const row = y.row(i);
      detail::with_vectors<S>([&](auto n) DROPBP_FORCE_INLINE {
        detail::for_each_piece<n>(y.columns, [&](Index j, auto piece) DROPBP_FORCE_INLINE {
          detail::store_piece(row + j, detail::load_piece(row + j, piece, S(0)) * by, piece);
        });
      });
    });
  }

  /// to = from, converted from float.
  static void convert_from(MatrixView<T> to, MatrixView<const float> from) {
    parallel_for(to.rows, to.columns,
                 [&](Index i) { convert_row(to.row(i), from.row(i), to.columns); });
  }

  /// to = from, rounded to float.
  static void convert_to(MatrixView<float> to, MatrixView<const T> from) {
    parallel_for(to.rows, to.columns,
                 [&](Index i) { convert_row(to.row(i), from.row(i), to.columns); });
  }

 private:
  // In vectors where T is computed in float.
  template <class To, class From>
  static void convert_row(To* to, const From* from, Index count) {
    if constexpr (std::is_same_v<S, float>) {
      detail::with_vectors<S>([&](auto n) DROPBP_FORCE_INLINE {
        detail::for_each_piece<n>(count, [&](Index j, auto piece) DROPBP_FORCE_INLINE {
          detail::store_piece(to + j, detail::load_piece(from + j, piece, S(0)), piece);
        });
      });
    } else {
      for (Index j = 0; j < count; ++j) to[j] = static_cast<To>(from[j]);
    }
  }
};

}  // namespace ops
DROPBP_NAMESPACE_END
