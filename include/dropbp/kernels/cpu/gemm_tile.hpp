// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The register tiles of gemm_blocked.hpp: a block of C, `rows` x `columns`, whose sums stay in
// registers while the depth passes. On AVX-512 a tile is 12 rows of two vectors: 24 sums hide the
// latency of the multiply-add and fit into 32 registers; else it is 6 rows, 12 sums of 16
// registers.
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>

#include "dropbp/kernels/cpu/gemm_pack.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops::detail {

// Multiplies and adds in float or double, with the instructions of `Set`.
template <class T, class InstructionsOf>
struct MultiplyAddTile {
  using Set = InstructionsOf;
  using Element = T;
  using Words = SingleWords<T>;
  using Sum = Statistic<T>;
  static constexpr Index lanes_of_sum = Set::bytes / static_cast<Index>(sizeof(Sum));
  static constexpr Index rows = Set::registers == 32 ? 12 : 6, columns = 2 * lanes_of_sum;
  // Elements of the depth in a block. With AVX2 a packed panel of B has 16 KiB, half of the
  // first-level cache; on AVX-512 it streams from the second, as the tile needs it half as often.
  // The same for all sets: it determines the order of additions.
  static constexpr Index block_depth = 256;

  // c (=|+=) panel of A times panel of B. Each element is a single chain of multiply-adds over the
  // depth.
  static DROPBP_FORCE_INLINE void product(Index words, const Sum* a, const Sum* b, Sum* c,
                                          Index stride, Accumulate mode) noexcept {
    product_of(words, a, b, c, stride, mode,
               std::make_index_sequence<static_cast<std::size_t>(rows)>{});
  }

 private:
  static DROPBP_FORCE_INLINE void prefetch(const Sum* row) noexcept {
    for (Index at = 0; at < columns; at += 64 / static_cast<Index>(sizeof(Sum)))
      __builtin_prefetch(row + at, 1);
  }

  template <std::size_t... row>
  static DROPBP_FORCE_INLINE void product_of(Index words, const Sum* a, const Sum* b, Sum* c,
                                             Index stride, Accumulate mode,
                                             std::index_sequence<row...>) noexcept {
    constexpr Index n = lanes_of_sum;
    using V = typename Vector<Sum, n>::Raw;
    constexpr std::size_t count = sizeof...(row);
    V left[count] = {((void)row, V{})...}, right[count] = {((void)row, V{})...};
    // The sums meet C long after it has arrived.
    (prefetch(c + Index(row) * stride), ...);
    for (Index q = 0; q < words; ++q, a += rows, b += columns) {
      const V b_left = load<n>(b).raw, b_right = load<n>(b + n).raw;
      ((left[row] += a[row] * b_left, right[row] += a[row] * b_right), ...);
    }
    if (mode == Accumulate::add)
      ((left[row] += load<n>(c + Index(row) * stride).raw,
        right[row] += load<n>(c + Index(row) * stride + n).raw),
       ...);
    ((store<n>(c + Index(row) * stride, {left[row]}),
      store<n>(c + Index(row) * stride + n, {right[row]})),
     ...);
  }
};

#if defined(DROPBP_X86_VECTORS)
// Pairs of BFloat16 by the instruction vdpbf16ps: twice the multiply-adds of float. Each adds the
// two products of a pair to a float; it takes subnormal numbers as zero.
struct DotTile {
  using Set = Avx512;  // of everything but the product
  using Element = BFloat16;
  using Words = PairWords;
  using Sum = float;
  static constexpr Index lanes_of_sum = 16, rows = 12, columns = 32;
  // Deep, so that most products round to BFloat16 once and need no memory for sums in float.
  static constexpr Index block_depth = 2048;

  static void product(Index words, const std::uint32_t* a, const std::uint32_t* b, float* c,
                      Index stride, Accumulate mode) noexcept {
    product_of(words, a, b, c, stride, mode, std::make_index_sequence<rows>{});
  }

 private:
  using V = typename Vector<float, 16>::Raw;
  using Pairs = typename Vector<std::uint32_t, 16>::Raw;

  // Inline assembly, because the built-in functions of compilers differ in their types.
  __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"),
                 always_inline)) static inline void
  dot(V& sum, const V& b, const Pairs& a) noexcept {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(b), "v"(a));
  }

  template <std::size_t... row>
  __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"))) static void
  product_of(Index words, const std::uint32_t* a, const std::uint32_t* b, float* c, Index stride,
             Accumulate mode, std::index_sequence<row...>) noexcept {
    constexpr std::size_t count = sizeof...(row);
    V left[count] = {((void)row, V{})...}, right[count] = {((void)row, V{})...};
    Pairs pair;
    for (Index q = 0; q < words; ++q, a += rows, b += columns) {
      V b_left, b_right;
      std::memcpy(&b_left, b, sizeof b_left);
      std::memcpy(&b_right, b + 16, sizeof b_right);
      ((pair = Pairs{} + a[row], dot(left[row], b_left, pair), dot(right[row], b_right, pair)),
       ...);
    }
    if (mode == Accumulate::add)
      ((left[row] += load<16>(c + Index(row) * stride).raw,
        right[row] += load<16>(c + Index(row) * stride + 16).raw),
       ...);
    ((store<16>(c + Index(row) * stride, {left[row]}),
      store<16>(c + Index(row) * stride + 16, {right[row]})),
     ...);
  }
};
#endif

}  // namespace ops::detail
DROPBP_NAMESPACE_END
