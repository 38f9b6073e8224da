// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// AdamW on the CPU. See ops/adamw.hpp.
#pragma once

#include <algorithm>
#include <span>

#include "dropbp/kernels/cpu/parallel.hpp"
#include "dropbp/kernels/cpu/simd.hpp"
#include "dropbp/kernels/kernels.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// See ops/adamw.hpp.
template <HostScalar T>
struct kernels<op::adamw, T, Cpu> {
  /// Updates all segments.
  static void run(std::span<AdamWSegment<T>> segments,
                  const AdamWConstants<Statistic<T>>& constants) {
    for (const AdamWSegment<T>& segment : segments) update(segment, constants);
  }

 private:
  using S = Statistic<T>;

  static void update(const AdamWSegment<T>& segment, const AdamWConstants<S>& constants) {
    const Index size = static_cast<Index>(segment.size);
    constexpr Index chunk = 4096;
    parallel_for((size + chunk - 1) / chunk, (std::min)(size, chunk), [&](Index c) {
      update_chunk(segment, constants, c * chunk, (std::min)(size - c * chunk, chunk));
    });
  }

  static void update_chunk(const AdamWSegment<T>& segment, const AdamWConstants<S>& constants,
                           Index first, Index count) {
    T* const value = segment.value + first;
    const T* const gradient = segment.gradient + first;
    S* const master = segment.master == nullptr ? nullptr : segment.master + first;
    S* const first_moment = segment.first_moment + first;
    S* const second_moment = segment.second_moment + first;
    detail::with_vectors<S>([&](auto n) DROPBP_FORCE_INLINE {
      // Copies, which cannot alias what is written.
      const AdamWConstants<S> o = constants;
      const S step_size = segment.step_size, root_correction = segment.root_correction,
              keep = segment.keep;
      detail::for_each_piece<n>(count, [&](Index i, auto piece) DROPBP_FORCE_INLINE {
        const auto g = o.factor * detail::load_piece(gradient + i, piece, S(0));
        const auto m = o.beta1 * detail::load_piece(first_moment + i, piece, S(0)) + o.rest1 * g;
        const auto v =
            o.beta2 * detail::load_piece(second_moment + i, piece, S(0)) + o.rest2 * (g * g);
        const auto old = master != nullptr ? detail::load_piece(master + i, piece, S(0))
                                           : detail::load_piece(value + i, piece, S(0));
        const auto p = keep * old - step_size * m / (detail::root(v) * root_correction + o.eps);
        detail::store_piece(first_moment + i, m, piece);
        detail::store_piece(second_moment + i, v, piece);
        if (master != nullptr) detail::store_piece(master + i, p, piece);
        detail::store_piece(value + i, p, piece);
      });
    });
  }
};

}  // namespace ops
DROPBP_NAMESPACE_END
