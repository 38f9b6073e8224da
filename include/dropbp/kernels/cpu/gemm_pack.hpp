// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Packing for gemm_blocked.hpp: copies a panel of an operand into the order in which the register
// tile reads it. The unit of packed memory is a word, which holds one or two elements of the depth.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "dropbp/kernels/cpu/simd.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops::detail {

// Words of one element of T, as float or double.
template <class T>
struct SingleWords {
  using Word = Statistic<T>;
  static constexpr Index depth = 1;  // elements in a word

  // The words of n neighbours, whose depth elements are `step` apart.
  template <Index n>
  static DROPBP_FORCE_INLINE Vector<Word, n> across(const T* from, Index) noexcept {
    return load<n>(from);
  }
  // n consecutive words of one element's depth, which is contiguous.
  template <Index n>
  static DROPBP_FORCE_INLINE Vector<Word, n> along(const T* from) noexcept {
    return load<n>(from);
  }
  // One word, of `count` <= depth elements.
  static DROPBP_FORCE_INLINE Word one(const T* from, Index, Index) noexcept {
    if constexpr (std::is_same_v<T, BFloat16>)
      return to_float(*from);
    else
      return *from;
  }
};

// Words of two BFloat16; the first is the low half.
struct PairWords {
  using Word = std::uint32_t;
  static constexpr Index depth = 2;

  template <Index n>
  static DROPBP_FORCE_INLINE Vector<Word, n> across(const BFloat16* from, Index step) noexcept {
    using Halves = typename vector_of<std::uint16_t, n>::type;
    Halves low, high;
    std::memcpy(&low, from, sizeof low);
    std::memcpy(&high, from + step, sizeof high);
    using Words = typename vector_of<Word, n>::type;
    return {__builtin_convertvector(low, Words) | __builtin_convertvector(high, Words) << 16};
  }
  template <Index n>
  static DROPBP_FORCE_INLINE Vector<Word, n> along(const BFloat16* from) noexcept {
    Vector<Word, n> words;
    std::memcpy(&words, from, sizeof words);
    return words;
  }
  static DROPBP_FORCE_INLINE Word one(const BFloat16* from, Index step, Index count) noexcept {
    return from[0].bits | (count > 1 ? Word{from[step].bits} << 16 : 0u);
  }
};

// One step of Eklundh's transposition: swaps the off-diagonal `s`-blocks of the rows a and b. The
// indices are literals, because nvcc rejects a parameter pack here.
template <std::size_t s, class V>
DROPBP_FORCE_INLINE inline void exchange(V& a, V& b) noexcept {
  V upper, lower;
  if constexpr (s == 1) {
    upper = __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14);
    lower = __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
  } else if constexpr (s == 2) {
    upper = __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13);
    lower = __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
  } else {
    static_assert(s == 4);
    upper = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11);
    lower = __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
  }
  a = upper, b = lower;
}

// to[q * to_stride + j] = word q of element j, for q < 8, j < count <= 8. For count <= j < 8 the
// values are unspecified.
template <class Words, Index count, class T>
DROPBP_FORCE_INLINE inline void transpose_8(const T* from, Index stride, typename Words::Word* to,
                                            Index to_stride) noexcept {
  Vector<typename Words::Word, 8> r[8]{};
  for (Index j = 0; j < count; ++j) r[j] = Words::template along<8>(from + j * stride);
  for (const int i : {0, 2, 4, 6}) exchange<1>(r[i].raw, r[i + 1].raw);
  for (const int i : {0, 1, 4, 5}) exchange<2>(r[i].raw, r[i + 2].raw);
  for (const int i : {0, 1, 2, 3}) exchange<4>(r[i].raw, r[i + 4].raw);
  for (Index q = 0; q < 8; ++q) std::memcpy(to + q * to_stride, &r[q], sizeof r[q]);
}

// The largest vector of at most 8 words that divides a panel.
constexpr Index pack_lanes(Index width) { return width % 8 == 0 ? 8 : width % 4 == 0 ? 4 : 2; }

// Packs one panel of `width` vectors of length `depth`: word (q, j) is at panel[q * width + j];
// vectors from `count` on are zero, as is a missing element of the last word. Vector j begins at
// source + j * stride if `along`, which says that the depth runs along the rows of the source; else
// at source + j. If it `spills`, it may write up to 8 words past the end of the panel, which is
// faster where the width is no multiple of 8. A panel of B must not: another thread may write
// there.
template <class Words, Index width, bool spills, class T>
DROPBP_FORCE_INLINE inline void pack_panel(const T* source, Index stride, bool along, Index depth,
                                           Index count, typename Words::Word* panel) noexcept {
  const Index whole = depth / Words::depth;
  const Index step = along ? 1 : stride, next = along ? stride : 1;
  Index q = 0;
  if (count == width && along && (spills || width % 8 == 0)) {
    // From the right: a short transposition writes into the row below, whose left part comes later.
    for (; q + 8 <= whole; q += 8) {
      constexpr Index rest = width % 8;
      const T* const from = source + q * Words::depth;
      if constexpr (rest > 0)
        transpose_8<Words, rest>(from + (width - rest) * stride, stride,
                                 panel + q * width + width - rest, width);
      for (Index j = width - rest - 8; j >= 0; j -= 8)
        transpose_8<Words, 8>(from + j * stride, stride, panel + q * width + j, width);
    }
  } else if (count == width && !along) {
    constexpr Index n = pack_lanes(width);
    for (; q < whole; ++q)
      for (Index j = 0; j < width; j += n) {
        const auto words =
            Words::template across<n>(source + q * Words::depth * stride + j, stride);
        std::memcpy(panel + q * width + j, &words, sizeof words);
      }
  }
  if (count < width && !along) {
    constexpr Index n = pack_lanes(width);
    for (; q < whole; ++q) {
      Index j = 0;
      for (; j + n <= count; j += n) {
        const auto words =
            Words::template across<n>(source + q * Words::depth * stride + j, stride);
        std::memcpy(panel + q * width + j, &words, sizeof words);
      }
      for (; j < width; ++j)
        panel[q * width + j] =
            j < count ? Words::one(source + q * Words::depth * step + j * next, step, Words::depth)
                      : typename Words::Word(0);
    }
  }
  for (; q * Words::depth < depth; ++q)
    for (Index j = 0; j < width; ++j)
      panel[q * width + j] = j < count ? Words::one(source + q * Words::depth * step + j * next,
                                                    step, depth - q * Words::depth)
                                       : typename Words::Word(0);
}

}  // namespace ops::detail
DROPBP_NAMESPACE_END
