// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Dequantises 4-bit weights on the CPU. See ops/nf4.hpp.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "dropbp/kernels/cpu/parallel.hpp"
#include "dropbp/kernels/cpu/simd.hpp"
#include "dropbp/kernels/kernels.hpp"
#include "dropbp/kernels/nf4_tables.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {
namespace detail {

// The values of the two codes in a byte, high half first.
inline constexpr auto nf4_pairs = [] {
  std::array<std::array<float, 2>, 256> pairs{};
  for (std::size_t byte = 0; byte < 256; ++byte)
    pairs[byte] = {nf4_values[byte >> 4], nf4_values[byte & 15]};
  return pairs;
}();

}  // namespace detail

/// See ops/nf4.hpp, which documents codes and scales.
template <HostScalar T>
struct kernels<op::nf4, T, Cpu> {
  /// to [rows, columns] = the rows from `first_row` on of a quantised matrix with as many columns.
  static void expand(MatrixView<T> to, Index first_row, const std::uint8_t* codes,
                     const std::uint8_t* scales, const float* group_scales, float offset) {
    parallel_for(to.rows, to.columns, [&](Index i) {
      expand_elements({codes, scales, group_scales, offset}, (first_row + i) * to.columns,
                      to.columns, to.row(i));
    });
  }

 private:
  static constexpr Index block = detail::nf4_block;

  struct Quantized {
    const std::uint8_t* codes;
    const std::uint8_t* scales;
    const float* group_scales;
    float offset;

    // Rounds the product and the sum to float separately. The product of two floats is exact in
    // double, so the compiler cannot fuse it with the sum.
    float scale_of(Index b) const noexcept {
      const double scaled = static_cast<double>(detail::dynamic_values[scales[b]]) *
                            static_cast<double>(group_scales[b / detail::nf4_group]);
      return static_cast<float>(scaled) + offset;
    }
  };

  static T value(float x) noexcept { return detail::rounded<T>(static_cast<Statistic<T>>(x)); }

  // Writes `count` elements from element `first` on.
  static void expand_elements(const Quantized& quantized, Index first, Index count,
                              T* to) noexcept {
    while (count > 0) {
      const Index b = first / block, piece = (std::min)(count, (b + 1) * block - first);
      const std::uint8_t* from = quantized.codes + first / 2;
      const float scale = quantized.scale_of(b);
      if (piece == block) {
        for (Index i = 0; i < block / 2; ++i) expand_byte(from[i], scale, to + 2 * i);
      } else {
        Index i = 0;
        if (first % 2 != 0) to[i++] = value(detail::nf4_values[*from++ & 15u] * scale);
        for (; i + 2 <= piece; i += 2) expand_byte(*from++, scale, to + i);
        if (i < piece) to[i] = value(detail::nf4_values[*from >> 4] * scale);
      }
      first += piece, count -= piece, to += piece;
    }
  }

  static void expand_byte(std::uint8_t byte, float scale, T* to) noexcept {
    const auto& pair = detail::nf4_pairs[byte];
#if defined(__GNUC__)
    if constexpr (std::is_same_v<T, float>) {  // one 8-byte vector: 1.6 times as fast
      typename detail::vector_of<float, 2>::type both;
      std::memcpy(&both, pair.data(), sizeof both);
      both *= scale;
      std::memcpy(to, &both, sizeof both);
      return;
    }
#endif
    to[0] = value(pair[0] * scale);
    to[1] = value(pair[1] * scale);
  }
};

}  // namespace ops
DROPBP_NAMESPACE_END
