// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Tiles of BFloat16 in shared memory, as operands of the tensor cores (mma.m16n8k16).
#pragma once

#include <cstddef>
#include <cstdint>

#include "dropbp/backend/cuda/context.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {
namespace detail {

// A row of a tile has a stride of size / 2 + 4 words, with two elements per 32-bit word. With this
// stride the 32 lanes of a fragment access 32 different banks. To read an operand across its rows,
// a lane reads the words of two columns, and two products use them: one computes the even columns
// of 16, the other the odd ones. As a result, a lane holds four neighbouring columns.

template <unsigned size>
struct MmaTile {
  static constexpr unsigned rows = 64;                          ///< tokens
  static constexpr unsigned threads = 128;                      ///< per block: one warp per 16 rows
  static constexpr unsigned stride = size / 2 + 4;              ///< words per row
  static constexpr unsigned words = rows * stride;              ///< words of the tile
  static constexpr std::size_t bytes = std::size_t{4} * words;  ///< bytes of the tile
};

// Copies a tile. Missing rows, and columns beyond the head, become zero. If `vectorised`, the copy
// is asynchronous: it is complete after a commit and a wait.
template <unsigned size, class Context>
DROPBP_DEVICE void copy_tile(Context ctx, std::uint32_t* to, const BFloat16* from,
                             Index from_stride, Index rows, Index columns, bool vectorised) {
  using Tile = MmaTile<size>;
  if (vectorised) {
    constexpr unsigned pieces = size / 8;
    for (unsigned i = ctx.thread(); i < Tile::rows * pieces; i += Tile::threads) {
      const unsigned row = i / pieces, piece = i % pieces;
      std::uint32_t* const target = to + row * Tile::stride + 4 * piece;
      if (row < rows && 8 * piece < columns)
        ctx.async_copy_16(target, from + row * from_stride + 8 * piece);
      else
        ctx.store_shared(target, Pack<std::uint32_t, 4>{});
    }
  } else {
    constexpr unsigned pieces = size / 2;
    for (unsigned i = ctx.thread(); i < Tile::rows * pieces; i += Tile::threads) {
      const unsigned row = i / pieces, column = 2 * (i % pieces);
      std::uint32_t word = 0;
      if (row < rows) {
        const BFloat16* const source = from + row * from_stride + column;
        if (column < columns) word = ctx.template load<BFloat16, 1>(source).values[0].bits;
        if (column + 1 < columns)
          word |=
              static_cast<std::uint32_t>(ctx.template load<BFloat16, 1>(source + 1).values[0].bits)
              << 16;
      }
      to[row * Tile::stride + column / 2] = word;
    }
  }
}

DROPBP_DEVICE std::uint32_t low_halves(std::uint32_t first, std::uint32_t second) {
  return (first & 0xFFFFu) | second << 16;
}
DROPBP_DEVICE std::uint32_t high_halves(std::uint32_t first, std::uint32_t second) {
  return first >> 16 | (second & 0xFFFF0000u);
}
DROPBP_DEVICE std::uint32_t pair_of(float first, float second) {
  return from_float<BFloat16>(first).bits |
         static_cast<std::uint32_t>(from_float<BFloat16>(second).bits) << 16;
}

/// A lane's position in the fragments: lane = 4 * group + member.
struct Lane {
  unsigned group, member;
};
template <class Context>
DROPBP_DEVICE Lane lane_of(Context ctx) {
  return {ctx.thread() % 32 / 4, ctx.thread() % 4};
}

// Loads rows 0 to 15 and the 16 columns from 16 * step on, as the first operand.
template <unsigned stride>
DROPBP_DEVICE void load_rows(std::uint32_t (&a)[4], const std::uint32_t* tile, Lane lane,
                             unsigned step) {
  const std::uint32_t* const word = tile + lane.group * stride + 8 * step + lane.member;
  a[0] = word[0], a[1] = word[8 * stride], a[2] = word[4], a[3] = word[8 * stride + 4];
}

// Loads rows 0 to 7 and the 16 columns from 16 * step on, transposed, as the second operand.
template <unsigned stride>
DROPBP_DEVICE void load_transposed(std::uint32_t (&b)[2], const std::uint32_t* tile, Lane lane,
                                   unsigned step) {
  const std::uint32_t* const word = tile + lane.group * stride + 8 * step + lane.member;
  b[0] = word[0], b[1] = word[4];
}

// Loads rows 0 to 15 as two second operands: the even and the odd ones of the 16 columns from 16 *
// step on.
template <unsigned stride>
DROPBP_DEVICE void load_columns(std::uint32_t (&even)[2], std::uint32_t (&odd)[2],
                                const std::uint32_t* tile, Lane lane, unsigned step) {
  const std::uint32_t* const word = tile + 2 * lane.member * stride + 8 * step + lane.group;
  DROPBP_UNROLL
  for (unsigned i = 0; i < 2; ++i) {
    const std::uint32_t first = word[8 * i * stride], second = word[(8 * i + 1) * stride];
    even[i] = low_halves(first, second), odd[i] = high_halves(first, second);
  }
}

// Converts a lane's results of products (16 rows, 16 columns) to the first operand of the next
// product.
DROPBP_DEVICE void pack_operand(std::uint32_t (&a)[4], const float (&left)[4],
                                const float (&right)[4]) {
  a[0] = pair_of(left[0], left[1]), a[1] = pair_of(left[2], left[3]);
  a[2] = pair_of(right[0], right[1]), a[3] = pair_of(right[2], right[3]);
}

// sums [16, size] += a [16, 16] times tile [16, size].
template <unsigned size, class Context>
DROPBP_DEVICE void add_product(Context ctx, float (&sums)[size / 8][4], const std::uint32_t (&a)[4],
                               const std::uint32_t* tile, Lane lane) {
  DROPBP_UNROLL
  for (unsigned step = 0; step < size / 16; ++step) {
    std::uint32_t even[2], odd[2];
    load_columns<MmaTile<size>::stride>(even, odd, tile, lane, step);
    ctx.mma_bf16(sums[2 * step], a, even);
    ctx.mma_bf16(sums[2 * step + 1], a, odd);
  }
}

// products [16, 8 * count] = x [16, size] times the transpose of y [8 * count, size].
template <unsigned size, unsigned count, class Context>
DROPBP_DEVICE void multiply_rows(Context ctx, float (&products)[count][4], const std::uint32_t* x,
                                 const std::uint32_t* y, Lane lane) {
  constexpr unsigned stride = MmaTile<size>::stride;
  DROPBP_UNROLL
  for (unsigned i = 0; i < count; ++i)
    products[i][0] = products[i][1] = products[i][2] = products[i][3] = 0.0f;
  DROPBP_UNROLL
  for (unsigned step = 0; step < size / 16; ++step) {
    std::uint32_t a[4];
    load_rows<stride>(a, x, lane, step);
    DROPBP_UNROLL
    for (unsigned i = 0; i < count; ++i) {
      std::uint32_t b[2];
      load_transposed<stride>(b, y + 8 * i * stride, lane, step);
      ctx.mma_bf16(products[i], a, b);
    }
  }
}

// Stores a lane's rows lane.group and lane.group + 8 of 16, each multiplied by its factor.
template <unsigned size, class Context>
DROPBP_DEVICE void store_rows(Context ctx, BFloat16* to, Index to_stride,
                              const float (&sums)[size / 8][4], const float (&factors)[2],
                              Index rows, Index columns, Lane lane, bool vectorised) {
  DROPBP_UNROLL
  for (unsigned half = 0; half < 2; ++half) {
    const unsigned row = lane.group + 8 * half;
    if (row >= rows) continue;
    DROPBP_UNROLL
    for (unsigned step = 0; step < size / 16; ++step) {
      const unsigned column = 16 * step + 4 * lane.member;
      Pack<BFloat16, 4> values;
      DROPBP_UNROLL
      for (unsigned i = 0; i < 4; ++i)
        values.values[i] =
            from_float<BFloat16>(sums[2 * step + i % 2][2 * half + i / 2] * factors[half]);
      BFloat16* const target = to + row * to_stride + column;
      if (vectorised) {
        if (column < columns) ctx.store(target, values);
      } else {
        DROPBP_UNROLL
        for (unsigned i = 0; i < 4; ++i)
          if (column + i < columns) ctx.store(target + i, Pack<BFloat16, 1>{{values.values[i]}});
      }
    }
  }
}

}  // namespace detail
}  // namespace cuda
DROPBP_NAMESPACE_END
