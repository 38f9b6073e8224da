// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Rotary position embedding on the CPU. See ops/rope.hpp.
#pragma once

#include "dropbp/kernels/cpu/parallel.hpp"
#include "dropbp/kernels/cpu/simd.hpp"
#include "dropbp/kernels/kernels.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// See ops/rope.hpp.
template <HostScalar T>
struct kernels<op::rope, T, Cpu> {
  /// Rotates the first `heads` heads, of 2 * half elements each, in each row of x. Row t has
  /// position t % sequence in the tables [positions, half].
  static void run(MatrixView<T> x, const Statistic<T>* cosine, const Statistic<T>* sine,
                  Index heads, Index half, Index sequence, Rotation rotation) {
    using S = Statistic<T>;
    const S sign = rotation == Rotation::forward ? S(1) : S(-1);
    parallel_for(x.rows, heads * 2 * half, [&](Index t) {
      const S* const cosines = cosine + t % sequence * half;
      const S* const sines = sine + t % sequence * half;
      T* const row = x.row(t);
      detail::with_vectors<S>([&](auto n) DROPBP_FORCE_INLINE {
        for (Index head = 0; head < heads; ++head) {
          T* const first = row + head * 2 * half;
          T* const second = first + half;
          detail::for_each_piece<n>(half, [&](Index i, auto piece) DROPBP_FORCE_INLINE {
            const auto a = detail::load_piece(first + i, piece, S(0)),
                       b = detail::load_piece(second + i, piece, S(0)),
                       c = detail::load_piece(cosines + i, piece, S(0)),
                       s = sign * detail::load_piece(sines + i, piece, S(0));
            detail::store_piece(first + i, a * c - b * s, piece);
            detail::store_piece(second + i, b * c + a * s, piece);
          });
        }
      });
    });
  }
};

}  // namespace ops
DROPBP_NAMESPACE_END
