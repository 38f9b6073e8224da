// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// AdamW on the CPU. See ops/adamw.hpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <span>

#include "dropbp/kernels/cpu/parallel.hpp"
#include "dropbp/kernels/kernels.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// See ops/adamw.hpp.
template <std::floating_point T>
struct kernels<op::adamw, T, Cpu> {
  /// Updates all segments.
  static void run(std::span<AdamWSegment<T>> segments, const AdamWConstants<T>& constants) {
    for (const AdamWSegment<T>& segment : segments) update(segment, constants);
  }

 private:
  static void update(const AdamWSegment<T>& segment, const AdamWConstants<T>& o) {
    T* const p = segment.value;
    const T* const g = segment.gradient;
    T* const m = segment.first_moment;
    T* const v = segment.second_moment;
    const T step_size = segment.step_size, root_correction = segment.root_correction;
    const T keep = segment.keep;
    const T beta1 = o.beta1, rest1 = o.rest1, beta2 = o.beta2, rest2 = o.rest2;
    const T eps = o.eps, factor = o.factor;
    const Index size = static_cast<Index>(segment.size);
    constexpr Index chunk = 4096;
    parallel_for((size + chunk - 1) / chunk, (std::min)(size, chunk), [&](Index c) {
      const Index last = (std::min)(size, (c + 1) * chunk);
      for (Index i = c * chunk; i < last; ++i) {
        const T gradient = factor * g[i];
        m[i] = beta1 * m[i] + rest1 * gradient;
        v[i] = beta2 * v[i] + rest2 * (gradient * gradient);
        p[i] = keep * p[i] - step_size * m[i] / (std::sqrt(v[i]) * root_correction + eps);
      }
    });
  }
};

}  // namespace ops
DROPBP_NAMESPACE_END
