// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Tiles of BFloat16 in shared memory, as operands of the tensor cores (mma.m16n8k16). In
// attention's kernels a warp computes one or two strips of 16 tokens, its own rows. The tiles of
// all other tokens come through shared memory, each one while the one before is used.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dropbp/backend/cuda/context.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {
namespace detail {

// An ldmatrix of four matrices takes 4 cycles of a multiprocessor's shared memory. It feeds two
// products of a strip, which take 4 cycles (sm_80) or 2 (sm_90): shared memory, not the tensor
// cores, limits these kernels. Two strips use every matrix twice, and own rows that stay in
// registers are not read again. Each kernel has as much of both as fits in the 255 registers of a
// thread, with two blocks of a multiprocessor. Heads of 128 in three blocks, with 168 registers,
// would have neither.
inline constexpr unsigned mma_blocks = 2;

// What a block may have on cards of compute capability 8.6 and 8.9, the least of all from 8.0 on.
inline constexpr std::size_t mma_most_shared_bytes = 99 * 1024;

inline constexpr unsigned mma_threads = 128;  ///< of a block
inline constexpr unsigned mma_warps = mma_threads / 32;

/// A tile of `tile_rows` tokens with `size` elements each, two in a word. A row has a stride of
/// size / 2 + 4 words, an odd number of 16-byte pieces: the eight rows of a matrix that one
/// ldmatrix loads are in different banks.
template <unsigned size, int tile_rows>
struct MmaTile {
  static constexpr unsigned rows = tile_rows;                   ///< tokens
  static constexpr unsigned columns = size;                     ///< elements per row
  static constexpr unsigned stride = size / 2 + 4;              ///< words per row
  static constexpr unsigned words = rows * stride;              ///< words of the tile
  static constexpr std::size_t bytes = std::size_t{4} * words;  ///< bytes of the tile
};

// Copies a tile. Missing rows, and columns beyond the head, become zero. If `vectorised`, the copy
// is asynchronous: it is complete after a commit and a wait.
template <class Tile, class Context>
DROPBP_DEVICE void copy_tile(Context ctx, std::uint32_t* to, const BFloat16* from,
                             Index from_stride, unsigned rows, unsigned columns, bool vectorised) {
  unsigned thread = ctx.thread();
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+r"(thread));  // or addresses of all copies would stay in registers
#endif
  if (vectorised) {
    constexpr unsigned pieces = Tile::columns / 8, step = mma_threads / pieces;  // rows at a time
    const unsigned first = thread / pieces, piece = thread % pieces;
    if (mma_threads % pieces != 0 && first >= step) return;
    const bool has_columns = 8 * piece < columns;
    const BFloat16* source = from + first * from_stride + 8 * piece;
    std::uint32_t* const target = to + first * Tile::stride + 4 * piece;
    DROPBP_UNROLL
    for (unsigned i = 0; i < Tile::rows; i += step, source += step * from_stride) {
      if (Tile::rows % step != 0 && i + first >= Tile::rows) break;
      ctx.async_copy_16(target + i * Tile::stride, source, has_columns && i + first < rows);
    }
  } else {
    constexpr unsigned pieces = Tile::columns / 2;
    DROPBP_NO_UNROLL
    for (unsigned i = thread; i < Tile::rows * pieces; i += mma_threads) {
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

/// The tiles that all warps of a block read: two at a time, of keys and values or of queries and
/// their gradients. The next two are copied to the other half of the buffer meanwhile.
template <unsigned size, int tile_rows>
struct MmaStages {
  using Tile = MmaTile<size, tile_rows>;
  static constexpr int rows = tile_rows;              ///< tokens of a tile
  static constexpr unsigned words = 2 * Tile::words;  ///< words of a half
  static constexpr std::size_t bytes = 4 * Tile::bytes;

  // Copies the tiles of a half, of which `count` rows are there, as one group to wait for.
  template <class Context>
  DROPBP_DEVICE static void copy(Context ctx, std::uint32_t* to, const BFloat16* first,
                                 Index first_stride, const BFloat16* second, Index second_stride,
                                 unsigned count, unsigned columns, bool vectorised) {
    copy_tile<Tile>(ctx, to, first, first_stride, count, columns, vectorised);
    copy_tile<Tile>(ctx, to + Tile::words, second, second_stride, count, columns, vectorised);
    ctx.async_commit();
  }
};

// Rounds two numbers; the first one is in the low half.
DROPBP_DEVICE std::uint32_t pair_of(float first, float second) {
#if defined(__CUDA_ARCH__)
  std::uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
#else
  return from_float<BFloat16>(first).bits |
         static_cast<std::uint32_t>(from_float<BFloat16>(second).bits) << 16;
#endif
}

/// A lane's position in the fragments: lane = 4 * group + member.
struct Lane {
  unsigned group, member;
};
template <class Context>
DROPBP_DEVICE Lane lane_of(Context ctx) {
  return {ctx.thread() % 32 / 4, ctx.thread() % 4};
}

// The warp's number in its block. The shuffle tells the compiler that it is the same in all lanes:
// branches on it are then no places where lanes could go apart.
template <class Context>
DROPBP_DEVICE unsigned warp_of(Context ctx) {
  return ctx.shuffle(ctx.thread() / 32, 0);
}

// Loads 16 rows and the 16 columns from 16 * step on, as matrices of 8 x 8: rows 0 to 7 and 8 to 15
// of the left columns, then of the right ones. A first operand is all four of them. A second one of
// which the rows are the columns is 0 and 2 (rows 0 to 7), or 1 and 3.
template <unsigned stride, class Context>
DROPBP_DEVICE void load_block(Context ctx, std::uint32_t (&m)[4], const std::uint32_t* rows,
                              unsigned step) {
  const unsigned lane = ctx.thread() % 32;
  ctx.load_matrices(m, rows + lane % 16 * stride + lane / 16 * 4 + 8 * step);
}

// The same, each matrix transposed: a second operand is 0 and 1 (left columns), or 2 and 3.
template <unsigned stride, class Context>
DROPBP_DEVICE void load_block_transposed(Context ctx, std::uint32_t (&m)[4],
                                         const std::uint32_t* rows, unsigned step) {
  const unsigned lane = ctx.thread() % 32;
  ctx.load_matrices_transposed(m, rows + lane % 16 * stride + lane / 16 * 4 + 8 * step);
}

/// A warp's own 16 * strips rows of a tile, as first operands. If `resident`, they are in registers
/// from the construction on; else every product reads them from shared memory.
template <unsigned size, unsigned strips, bool resident>
class OwnRows {
 public:
  static constexpr unsigned stride = MmaTile<size, 16>::stride;

  template <class Context>
  DROPBP_DEVICE OwnRows(Context ctx, const std::uint32_t* rows) : rows_(rows) {
    if constexpr (resident) {
      DROPBP_UNROLL
      for (unsigned strip = 0; strip < strips; ++strip) DROPBP_UNROLL
      for (unsigned step = 0; step < size / 16; ++step)
        load_block<stride>(ctx, held_[strip][step], rows_ + 16 * strip * stride, step);
    }
  }

  // Columns 16 * step to 16 * step + 15 of a strip.
  template <class Context>
  DROPBP_DEVICE void get(Context ctx, std::uint32_t (&a)[4], unsigned strip, unsigned step) const {
    if constexpr (resident) {
      DROPBP_UNROLL
      for (unsigned i = 0; i < 4; ++i) a[i] = held_[strip][step][i];
    } else {
      load_block<stride>(ctx, a, rows_ + 16 * strip * stride, step);
    }
  }

 private:
  const std::uint32_t* rows_;
  std::uint32_t held_[resident ? strips : 1][resident ? size / 16 : 1][4];
};

// products [16 * strips, 8 * count] = x times the transpose of y [8 * count, size].
template <unsigned count, unsigned size, unsigned strips, bool resident, class Context>
DROPBP_DEVICE void multiply_rows(Context ctx, float (&products)[strips][count][4],
                                 const OwnRows<size, strips, resident>& x, const std::uint32_t* y) {
  constexpr unsigned stride = MmaTile<size, 16>::stride;
  DROPBP_UNROLL
  for (unsigned strip = 0; strip < strips; ++strip) DROPBP_UNROLL
  for (unsigned i = 0; i < count; ++i) DROPBP_UNROLL
  for (unsigned j = 0; j < 4; ++j) products[strip][i][j] = 0.0f;
  DROPBP_UNROLL
  for (unsigned step = 0; step < size / 16; ++step) {
    std::uint32_t a[strips][4];
    DROPBP_UNROLL
    for (unsigned strip = 0; strip < strips; ++strip) x.get(ctx, a[strip], strip, step);
    DROPBP_UNROLL
    for (unsigned i = 0; i < count; i += 2) {
      std::uint32_t m[4];
      load_block<stride>(ctx, m, y + 8 * i * stride, step);
      const std::uint32_t upper[2] = {m[0], m[2]}, lower[2] = {m[1], m[3]};
      DROPBP_UNROLL
      for (unsigned strip = 0; strip < strips; ++strip) {
        ctx.mma_bf16(products[strip][i], a[strip], upper);
        ctx.mma_bf16(products[strip][i + 1], a[strip], lower);
      }
    }
  }
}

// sums [16 * strips, size] += x [16 * strips, 8 * count], results of products, times y [8 * count,
// size].
template <unsigned size, unsigned strips, unsigned count, class Context>
DROPBP_DEVICE void add_product(Context ctx, float (&sums)[strips][size / 8][4],
                               const float (&x)[strips][count][4], const std::uint32_t* y) {
  constexpr unsigned stride = MmaTile<size, 16>::stride;
  DROPBP_UNROLL
  for (unsigned i = 0; i < count; i += 2) {
    std::uint32_t a[strips][4];
    DROPBP_UNROLL
    for (unsigned strip = 0; strip < strips; ++strip) {
      const float(&left)[4] = x[strip][i], (&right)[4] = x[strip][i + 1];
      a[strip][0] = pair_of(left[0], left[1]), a[strip][1] = pair_of(left[2], left[3]);
      a[strip][2] = pair_of(right[0], right[1]), a[strip][3] = pair_of(right[2], right[3]);
    }
    DROPBP_UNROLL
    for (unsigned step = 0; step < size / 16; ++step) {
      std::uint32_t m[4];
      load_block_transposed<stride>(ctx, m, y + 8 * i * stride, step);
      const std::uint32_t left[2] = {m[0], m[1]}, right[2] = {m[2], m[3]};
      DROPBP_UNROLL
      for (unsigned strip = 0; strip < strips; ++strip) {
        ctx.mma_bf16(sums[strip][2 * step], a[strip], left);
        ctx.mma_bf16(sums[strip][2 * step + 1], a[strip], right);
      }
    }
  }
}

// Stores a warp's rows, each times its factor. They go through `own`, the warp's rows of a tile
// that nobody needs any more, so that one access to global memory has 16 bytes.
template <unsigned size, unsigned strips, class Context>
DROPBP_DEVICE void store_rows(Context ctx, BFloat16* to, Index to_stride,
                              const float (&sums)[strips][size / 8][4],
                              const float (&factors)[strips][2], std::uint32_t* own, int rows,
                              unsigned columns, bool vectorised) {
  constexpr unsigned stride = MmaTile<size, 16>::stride, pieces = size / 8;
  const Lane lane = lane_of(ctx);
  ctx.sync_warp();
  DROPBP_UNROLL
  for (unsigned strip = 0; strip < strips; ++strip) DROPBP_UNROLL
  for (unsigned half = 0; half < 2; ++half) {
    std::uint32_t* const row = own + (16 * strip + 8 * half + lane.group) * stride + lane.member;
    const float factor = factors[strip][half];
    DROPBP_UNROLL
    for (unsigned i = 0; i < size / 8; ++i)
      row[4 * i] =
          pair_of(sums[strip][i][2 * half] * factor, sums[strip][i][2 * half + 1] * factor);
  }
  ctx.sync_warp();
  for (unsigned i = ctx.thread() % 32; i < 16 * strips * pieces; i += 32) {
    const unsigned row = i / pieces, column = 8 * (i % pieces);
    if (static_cast<int>(row) >= rows || column >= columns) continue;
    const auto values = ctx.template load_shared<BFloat16, 8>(
        reinterpret_cast<const BFloat16*>(own + row * stride) + column);
    BFloat16* const target = to + row * to_stride + column;
    if (vectorised) {
      ctx.store(target, values);
    } else {
      DROPBP_UNROLL
      for (unsigned j = 0; j < 8; ++j)
        if (column + j < columns) ctx.store(target + j, Pack<BFloat16, 1>{{values.values[j]}});
    }
  }
}

}  // namespace detail
}  // namespace cuda
DROPBP_NAMESPACE_END
