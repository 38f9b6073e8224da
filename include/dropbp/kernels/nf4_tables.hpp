// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The number formats of 4-bit weights, which all backends share. See ops/nf4.hpp.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

#include "dropbp/kernels/index.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops::detail {

inline constexpr Index nf4_block = 64;   // elements that share a scale
inline constexpr Index nf4_group = 256;  // scales that share a float

// The values of the 16 codes, relative to the largest absolute value of the block: quantiles of the
// normal distribution, with the digits that bitsandbytes publishes.
inline constexpr std::array<float, 16> nf4_values = {-1.0f,
                                                     -0.6961928009986877f,
                                                     -0.5250730514526367f,
                                                     -0.39491748809814453f,
                                                     -0.28444138169288635f,
                                                     -0.18477343022823334f,
                                                     -0.09105003625154495f,
                                                     0.0f,
                                                     0.07958029955625534f,
                                                     0.16093020141124725f,
                                                     0.24611230194568634f,
                                                     0.33791524171829224f,
                                                     0.44070982933044434f,
                                                     0.5626170039176941f,
                                                     0.7229568362236023f,
                                                     1.0f};

// The values of the 8-bit "dynamic" data type (Dettmers 2016, 8-Bit Approximations for Parallelism
// in Deep Learning), in ascending order: 0, 1, and for each power of ten from 1e-6 to 1 the
// midpoints of equal parts of [0.1, 1] times the power, with both signs. Each power of ten has
// twice as many values as the power before.
inline constexpr auto dynamic_values = [] {
  std::array<float, 256> values{0.0f, 1.0f};
  std::size_t count = 2;
  constexpr float powers[] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};
  for (int exponent = 0; exponent < 7; ++exponent) {
    const int parts = 1 << exponent;
    const double step = static_cast<double>((1.0f - 0.1f) / static_cast<float>(parts)),
                 from = static_cast<double>(0.1f);
    // Computed from the nearer end and rounded once, as PyTorch's linspace with fused multiply-adds
    // does.
    const auto boundary = [&](int i) {
      return static_cast<float>(i < (parts + 1) / 2 ? from + step * i : 1.0 - step * (parts - i));
    };
    for (int i = 0; i < parts; ++i) {
      const float middle = powers[exponent] * ((boundary(i) + boundary(i + 1)) / 2.0f);
      values[count++] = middle;
      values[count++] = -middle;
    }
  }
  std::sort(values.begin(), values.end());
  return values;
}();

}  // namespace ops::detail
DROPBP_NAMESPACE_END
