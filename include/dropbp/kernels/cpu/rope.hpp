// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Rotary position embedding on the CPU. See ops/rope.hpp.
#pragma once

#include <concepts>

#include "dropbp/kernels/cpu/parallel.hpp"
#include "dropbp/kernels/kernels.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// See ops/rope.hpp.
template <std::floating_point T>
struct kernels<op::rope, T, Cpu> {
  /// Rotates the first `heads` heads, of 2 * half elements each, in each row of x. Row t has
  /// position t % sequence in the tables [positions, half].
  static void run(MatrixView<T> x, const T* cosine, const T* sine, Index heads, Index half,
                  Index sequence, Rotation rotation) {
    const T sign = rotation == Rotation::forward ? T(1) : T(-1);
    parallel_for(x.rows, heads * 2 * half, [&](Index t) {
      const T* const cosines = cosine + t % sequence * half;
      const T* const sines = sine + t % sequence * half;
      for (Index head = 0; head < heads; ++head) {
        T* const first = x.row(t) + head * 2 * half;
        T* const second = first + half;
        for (Index i = 0; i < half; ++i) {
          const T a = first[i], b = second[i], s = sign * sines[i];
          first[i] = a * cosines[i] - b * s;
          second[i] = b * cosines[i] + a * s;
        }
      }
    });
  }
};

}  // namespace ops
DROPBP_NAMESPACE_END
