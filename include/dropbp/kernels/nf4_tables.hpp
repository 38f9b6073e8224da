// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The format of 4-bit weights, on every backend. See ops/nf4.hpp.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

#include "dropbp/kernels/index.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops::detail {

inline constexpr Index nf4_block = 64;   // elements that share a scale
inline constexpr Index nf4_group = 256;  // scales that share a float

// What the 16 codes stand for, relative to the largest value of their block: quantiles of the
// normal distribution, as bitsandbytes publishes them.
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

// The 8-bit "dynamic" numbers (Dettmers 2016, 8-Bit Approximations for Parallelism in Deep
// Learning), in ascending order: for each power of ten from 1e-6 to 1, twice as many as for the one
// before, the middles of equal parts of [0.1, 1] times it, with both signs; besides them 0 and 1.
inline constexpr auto dynamic_values = [] {
  std::array<float, 256> values{0.0f, 1.0f};
  std::size_t count = 2;
  constexpr float powers[] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};
  for (int exponent = 0; exponent < 7; ++exponent) {
    const int parts = 1 << exponent;
    const double step = static_cast<double>((1.0f - 0.1f) / static_cast<float>(parts)),
                 from = static_cast<double>(0.1f);
    // Counted from the nearer end and rounded once, as by PyTorch's linspace with fused
    // multiply-adds.
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
