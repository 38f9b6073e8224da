// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Rows in 8 bits (e4m3) on the CPU. See ops/fp8.hpp.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "dropbp/backend/e4m3.hpp"
#include "dropbp/kernels/cpu/parallel.hpp"
#include "dropbp/kernels/cpu/simd.hpp"
#include "dropbp/kernels/kernels.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {
namespace detail {

// The value of each code.
inline const std::array<float, 256>& e4m3_values() noexcept {
  static const std::array<float, 256> all = [] {
    std::array<float, 256> values;
    for (unsigned code = 0; code < 256; ++code)
      values[code] = to_float(E4m3{static_cast<std::uint8_t>(code)});
    return values;
  }();
  return all;
}

}  // namespace detail

/// See ops/fp8.hpp, which documents codes and scales.
template <HostScalar T>
struct kernels<op::fp8, T, Cpu> {
  /// codes [rows, columns or more] and scales [rows] of `from` [rows, columns], whose elements are
  /// rounded to float first. Codes beyond the columns become 0.
  static void quantize(MatrixView<std::uint8_t> codes, float* scales, MatrixView<const T> from) {
    parallel_for(from.rows, from.columns, [&](Index i) {
      const T* const row = from.row(i);
      std::uint8_t* const to = codes.row(i);
      std::uint32_t largest = 0;
      for (Index j = 0; j < from.columns; ++j)
        largest = (std::max)(largest, bits(row[j]) & 0x7FFFFFFFu);
      const E4m3Scale by = e4m3_scale(largest);
      scales[i] = by.scale;
      for (Index j = 0; j < from.columns; ++j) to[j] = to_e4m3(value(row[j]) * by.inverse).bits;
      std::fill(to + from.columns, to + codes.columns, std::uint8_t{0});
    });
  }

  /// to [rows, columns] = the first columns of codes [rows, columns or more], times their rows'
  /// scales.
  static void expand(MatrixView<T> to, MatrixView<const std::uint8_t> codes, const float* scales) {
    const std::array<float, 256>& values = detail::e4m3_values();
    parallel_for(to.rows, to.columns, [&](Index i) {
      const std::uint8_t* const from = codes.row(i);
      T* const row = to.row(i);
      for (Index j = 0; j < to.columns; ++j)
        row[j] = detail::rounded<T>(static_cast<Statistic<T>>(values[from[j]] * scales[i]));
    });
  }

 private:
  static float value(T x) noexcept {
    if constexpr (std::is_same_v<T, BFloat16>)
      return to_float(x);
    else
      return static_cast<float>(x);
  }
  static std::uint32_t bits(T x) noexcept { return dropbp::detail::bits_of(value(x)); }
};

}  // namespace ops
DROPBP_NAMESPACE_END
