// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Dropout on the CPU. See ops/dropout.hpp.
#pragma once

#include <algorithm>
#include <cstdint>

#include "dropbp/base/philox.hpp"
#include "dropbp/kernels/cpu/parallel.hpp"
#include "dropbp/kernels/cpu/simd.hpp"
#include "dropbp/kernels/kernels.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// See ops/dropout.hpp.
template <HostScalar T>
struct kernels<op::dropout, T, Cpu> {
  /// y = dropout(x): each element is 0 with probability `rate`, else x / (1 - rate). Each block of
  /// four elements of a row uses 128 bits of CounterRandom(seed, RandomStream::adapter_dropout,
  /// step, micro_step); blocks are numbered row by row. y may be x.
  static void run(MatrixView<T> y, MatrixView<const T> x, double rate, std::uint64_t seed,
                  std::uint64_t step, std::uint32_t micro_step) {
    const CounterRandom random(seed, RandomStream::adapter_dropout, step, micro_step);
    // Each element uses 32 bits and is dropped if they are below the threshold.
    const auto threshold = static_cast<std::uint32_t>(rate * 0x1p32);
    const auto scale = static_cast<Statistic<T>>(1.0 / (1.0 - rate));
    const Index draws = (x.columns + 3) / 4;
    parallel_for(x.rows, 16 * x.columns, [&](Index i) {
      for (Index d = 0; d < draws; ++d) {
        const auto bits = random.pair(static_cast<std::uint32_t>(i * draws + d));
        const std::uint32_t four[4] = {
            static_cast<std::uint32_t>(bits[0]), static_cast<std::uint32_t>(bits[0] >> 32),
            static_cast<std::uint32_t>(bits[1]), static_cast<std::uint32_t>(bits[1] >> 32)};
        const Index last = (std::min)(x.columns, 4 * d + 4);
        for (Index j = 4 * d; j < last; ++j)
          y.row(i)[j] = four[j - 4 * d] < threshold
                            ? T{}
                            : detail::rounded<T>(scale * detail::real(x.row(i)[j]));
      }
    });
  }
};

}  // namespace ops
DROPBP_NAMESPACE_END
