// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Dequantises 4-bit weights on the CPU, and multiplies with them. See ops/nf4.hpp.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "dropbp/kernels/cpu/gemm.hpp"
#include "dropbp/kernels/cpu/parallel.hpp"
#include "dropbp/kernels/cpu/scratch.hpp"
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

// A quantised matrix; see ops/nf4.hpp, which documents codes and scales.
struct Nf4View {
  const std::uint8_t* codes;
  const std::uint8_t* scales;
  const float* group_scales;
  float offset;
  Index columns;

  // Rounds the product and the sum to float separately. The product of two floats is exact in
  // double; g++ makes it one of floats again, which it would fuse with the sum.
  float scale_of(Index b) const noexcept {
    const double scaled = static_cast<double>(dynamic_values[scales[b]]) *
                          static_cast<double>(group_scales[b / nf4_group]);
    return rounded(static_cast<float>(scaled)) + offset;
  }
};

template <class T>
DROPBP_FORCE_INLINE inline T nf4_value(float x) noexcept {
  return rounded<T>(static_cast<Statistic<T>>(x));
}

template <class T>
DROPBP_FORCE_INLINE inline void expand_byte(std::uint8_t byte, float scale, T* to) noexcept {
  const auto& pair = nf4_pairs[byte];
#if defined(__GNUC__)
  if constexpr (std::is_same_v<T, float>) {  // one 8-byte vector: 1.6 times as fast
    typename vector_of<float, 2>::type both;
    std::memcpy(&both, pair.data(), sizeof both);
    both *= scale;
    std::memcpy(to, &both, sizeof both);
    return;
  }
#endif
  to[0] = nf4_value<T>(pair[0] * scale);
  to[1] = nf4_value<T>(pair[1] * scale);
}

// clang++ has no shuffle of vectors by a variable, except in functions that are compiled for one
// set; there every byte is looked up.
#if defined(__GNUC__) && !defined(__clang__)
#define DROPBP_NF4_SHUFFLES
// The values of n codes: a permutation of the table, which registers hold.
template <Index n>
DROPBP_FORCE_INLINE inline Vector<float, n> nf4_lookup(
    const Vector<std::int32_t, n>& code) noexcept {
  if constexpr (n == 16)
    return {__builtin_shuffle(load<n>(nf4_values.data()).raw, code.raw)};
  else
    return {__builtin_shuffle(load<n>(nf4_values.data()).raw, load<n>(nf4_values.data() + n).raw,
                              code.raw)};
}

// 32 elements from 16 bytes of codes.
template <Index n, class T>
DROPBP_FORCE_INLINE inline void expand_32(const std::uint8_t* codes, float scale, T* to) noexcept {
  using Halves = typename vector_of<std::uint16_t, 16>::type;
  typename vector_of<std::uint8_t, 16>::type bytes;
  std::memcpy(&bytes, codes, sizeof bytes);
  const Halves wide = __builtin_convertvector(bytes, Halves);
  const Halves ordered = (wide >> 4 | wide << 8) & 0x0F0Fu;  // the high half of a byte comes first
  std::uint8_t code[32];
  std::memcpy(code, &ordered, sizeof code);
  for (Index i = 0; i < 32; i += n) {
    typename vector_of<std::uint8_t, n>::type part;
    std::memcpy(&part, code + i, sizeof part);
    const Vector<std::int32_t, n> index{
        __builtin_convertvector(part, typename Vector<std::int32_t, n>::Raw)};
    store<n>(to + i, nf4_lookup<n>(index) * scale);
  }
}
#endif

// Writes the `count` elements from element `first` on; n is the number of floats in a vector.
template <Index n, class T>
DROPBP_FORCE_INLINE inline void expand_elements(const Nf4View& from, Index first, Index count,
                                                T* to) noexcept {
  while (count > 0) {
    const Index b = first / nf4_block, piece = (std::min)(count, (b + 1) * nf4_block - first);
    const std::uint8_t* codes = from.codes + first / 2;
    const float scale = from.scale_of(b);
    Index i = 0;
    if (first % 2 != 0) to[i++] = nf4_value<T>(nf4_values[*codes++ & 15u] * scale);
#if defined(DROPBP_NF4_SHUFFLES)
    if constexpr ((n == 8 || n == 16) && !std::is_same_v<T, double> &&
                  !std::is_same_v<T, long double>)
      for (; i + 32 <= piece; i += 32, codes += 16) expand_32<n>(codes, scale, to + i);
#endif
    for (; i + 2 <= piece; i += 2) expand_byte(*codes++, scale, to + i);
    if (i < piece) to[i] = nf4_value<T>(nf4_values[*codes >> 4] * scale);
    first += piece, count -= piece, to += piece;
  }
}

// A quantised operand of gemm_blocked.hpp. A panel is expanded in the cache, from which it is
// packed.
template <class T>
struct Nf4Operand {
  Nf4View matrix;
  bool along;  // the depth runs along its rows

  template <class Tile, Index width>
  DROPBP_FORCE_INLINE void pack(Index i, Index p, Index depth, Index count,
                                typename Tile::Words::Word* to) const noexcept {
    constexpr Index n = Tile::Set::bytes / static_cast<Index>(sizeof(float));
    T* const values = scratch<T>(Scratch::expanded, width * depth);
    const Index rows = along ? count : depth, columns = along ? depth : count;
    const Index row = along ? i : p, column = along ? p : i;
    for (Index r = 0; r < rows; ++r)
      expand_elements<n>(matrix, (row + r) * matrix.columns + column, columns,
                         values + r * columns);
    pack_panel<typename Tile::Words, width, false>(values, columns, along, depth, count, to);
  }
};

}  // namespace detail

/// See ops/nf4.hpp, which documents codes and scales.
template <HostScalar T>
struct kernels<op::nf4, T, Cpu> {
  /// to [rows, columns] = the rows from `first_row` on of a quantised matrix with as many columns.
  static void expand(MatrixView<T> to, Index first_row, const std::uint8_t* codes,
                     const std::uint8_t* scales, const float* group_scales, float offset) {
    const detail::Nf4View from{codes, scales, group_scales, offset, to.columns};
    parallel_for(to.rows, to.columns, [&](Index i) {
      detail::with_vectors<float>([&](auto n) DROPBP_FORCE_INLINE {
        detail::expand_elements<n>(from, (first_row + i) * to.columns, to.columns, to.row(i));
      });
    });
  }

  /// c (=|+=) a b^T (nt) or a b (nn) with a quantised b [rows, columns], which is expanded panel by
  /// panel and never as a whole.
  static void product(GemmLayout layout, MatrixView<T> c, MatrixView<const T> a, Index rows,
                      Index columns, const std::uint8_t* codes, const std::uint8_t* scales,
                      const float* group_scales, float offset, Accumulate mode) {
#if defined(DROPBP_BLOCKED_PRODUCTS)
    const bool along = layout == GemmLayout::nt;
    detail::machine_product(
        c, detail::Operand<T>{a.data, a.stride, true},
        detail::Nf4Operand<T>{{codes, scales, group_scales, offset, columns}, along},
        along ? columns : rows, mode);
#else
    constexpr Index step = 256;
    for (Index first = 0; first < rows; first += step) {
      const MatrixView<T> b(detail::scratch<T>(detail::Scratch::expanded, step * columns),
                            (std::min)(step, rows - first), columns);
      expand(b, first, codes, scales, group_scales, offset);
      if (layout == GemmLayout::nt)
        kernels<op::gemm, T, Cpu>::run(layout, c.columns_from(first, b.rows), a, b, mode);
      else
        kernels<op::gemm, T, Cpu>::run(layout, c, a.columns_from(first, b.rows), b,
                                       first == 0 ? mode : Accumulate::add);
    }
#endif
  }
};

}  // namespace ops
DROPBP_NAMESPACE_END
