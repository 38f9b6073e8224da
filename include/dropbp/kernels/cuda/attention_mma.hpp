// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Attention in BFloat16 on the tensor cores: tiles of 64 tokens in shared memory, a warp for 16 of
// them, mma.m16n8k16. See attention.hpp.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "dropbp/kernels/cuda/attention_tiles.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {
namespace detail {

// A tile's rows are 32-bit words, two elements each, size / 2 + 4 of them: then the 32 lanes of a
// fragment meet 32 banks. Where an operand is needed across its rows, a lane reads the words of two
// columns and two products share them: their columns are the even and the odd ones of 16, so that a
// lane ends with four columns side by side.

template <unsigned size>
struct MmaTile {
  static constexpr unsigned rows = 64;                          ///< tokens
  static constexpr unsigned threads = 128;                      ///< of a block: a warp for 16 rows
  static constexpr unsigned stride = size / 2 + 4;              ///< words of a row
  static constexpr unsigned words = rows * stride;              ///< of the tile
  static constexpr std::size_t bytes = std::size_t{4} * words;  ///< the same
};

// Rows that are not there and columns beyond the head become zero. Vectorised rows arrive after a
// commit and a wait.
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

/// A lane's place in the fragments: lane = 4 * group + member.
struct Lane {
  unsigned group, member;
};
template <class Context>
DROPBP_DEVICE Lane lane_of(Context ctx) {
  return {ctx.thread() % 32 / 4, ctx.thread() % 4};
}

// Rows 0 to 15 and columns 16 * step on, as the first operand.
template <unsigned stride>
DROPBP_DEVICE void load_rows(std::uint32_t (&a)[4], const std::uint32_t* tile, Lane lane,
                             unsigned step) {
  const std::uint32_t* const word = tile + lane.group * stride + 8 * step + lane.member;
  a[0] = word[0], a[1] = word[8 * stride], a[2] = word[4], a[3] = word[8 * stride + 4];
}

// Rows 0 to 7 and columns 16 * step on, as the second operand, transposed.
template <unsigned stride>
DROPBP_DEVICE void load_transposed(std::uint32_t (&b)[2], const std::uint32_t* tile, Lane lane,
                                   unsigned step) {
  const std::uint32_t* const word = tile + lane.group * stride + 8 * step + lane.member;
  b[0] = word[0], b[1] = word[4];
}

// Rows 0 to 15 as the second operand: of columns 16 * step on, the even ones and the odd ones.
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

// What products left in a lane, for 16 rows and 16 columns, as the first operand of the next one.
DROPBP_DEVICE void pack_operand(std::uint32_t (&a)[4], const float (&left)[4],
                                const float (&right)[4]) {
  a[0] = pair_of(left[0], left[1]), a[1] = pair_of(left[2], left[3]);
  a[2] = pair_of(right[0], right[1]), a[3] = pair_of(right[2], right[3]);
}

// sums [16 rows, size] += a [16, 16] tile [16 rows, size].
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

// products [16, 8 * count] = rows of x times rows of y: both tiles hold a row for each index.
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

// A lane's rows `lane.group` and + 8 of 16, times a factor each.
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

/// A block for 64 queries of a head.
template <unsigned size>
struct AttentionForwardMma {
  using Tile = MmaTile<size>;
  static constexpr const char* name = "attention_forward<BFloat16>";
  static constexpr unsigned threads = Tile::threads;
  static constexpr unsigned min_blocks = 2;
  static constexpr unsigned tile = Tile::rows;
  static constexpr std::size_t shared_bytes = 3 * Tile::bytes;

  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, Rows<BFloat16> o, float* lse, Rows<const BFloat16> qkv,
                                AttentionShape shape, float scale, bool vectorised) const {
    const Index tiles = divide_up(shape.sequence, tile);
    AttentionTask task = attention_task(ctx, tiles, shape.heads);
    task.tile =
        tiles - 1 - task.tile;  // the longest first: the last blocks are then the short ones
    const Index first = task.tile * tile, rows = least(tile, shape.sequence - first);
    const BFloat16* const sequence = qkv.row(task.batch * shape.sequence);
    const BFloat16* const queries = sequence + task.head * shape.head_size;
    const BFloat16* const keys =
        sequence + shape.q_width() + task.head / shape.group() * shape.head_size;
    const BFloat16* const values = keys + shape.kv_width();

    auto* const q = reinterpret_cast<std::uint32_t*>(ctx.shared());
    std::uint32_t *const k = q + Tile::words, *const v = k + Tile::words;
    const auto copy = [&](std::uint32_t* to, const BFloat16* from, Index row) {
      copy_tile<size>(ctx, to, from + row * qkv.stride, qkv.stride,
                      least(tile, shape.sequence - row), shape.head_size, vectorised);
    };
    copy(q, queries, first);
    copy(k, keys, 0);
    ctx.async_commit();

    const Lane lane = lane_of(ctx);
    const unsigned warp_row = ctx.thread() / 32 * 16;
    const std::uint32_t* const own_queries = q + warp_row * Tile::stride;
    const float scale2 = scale * log2_of_e;
    float sums[size / 8][4] = {};
    float largest[2] = {-INFINITY, -INFINITY}, total[2] = {};
    for (Index block = 0; block <= task.tile; ++block) {
      ctx.template async_wait<0>();
      ctx.sync();  // the keys are there, and the values before them are done with
      copy(v, values, block * tile);
      ctx.async_commit();
      float s[tile / 8][4];
      multiply_rows<size>(ctx, s, own_queries, k, lane);
      ctx.sync();
      if (block < task.tile) copy(k, keys, (block + 1) * tile);
      ctx.async_commit();

      DROPBP_UNROLL
      for (unsigned half = 0; half < 2; ++half) {
        const unsigned row = warp_row + lane.group + 8 * half;
        float most = largest[half];
        DROPBP_UNROLL
        for (unsigned i = 0; i < tile / 8; ++i) DROPBP_UNROLL
        for (unsigned j = 0; j < 2; ++j) {
          float& value = s[i][2 * half + j];
          value *= scale2;
          if (block == task.tile && 8 * i + 2 * lane.member + j > row) value = -INFINITY;
          most = value > most ? value : most;
        }
        DROPBP_UNROLL
        for (unsigned mask = 1; mask < 4; mask *= 2) {
          const float other = ctx.shuffle_xor(most, mask);
          most = other > most ? other : most;
        }
        const float shrink = std::exp2(largest[half] - most);
        largest[half] = most;
        float sum = 0.0f;
        DROPBP_UNROLL
        for (unsigned i = 0; i < tile / 8; ++i) DROPBP_UNROLL
        for (unsigned j = 0; j < 2; ++j)
          sum += s[i][2 * half + j] = std::exp2(s[i][2 * half + j] - most);
        total[half] = total[half] * shrink + sum;
        DROPBP_UNROLL
        for (unsigned i = 0; i < size / 8; ++i)
          sums[i][2 * half] *= shrink, sums[i][2 * half + 1] *= shrink;
      }

      ctx.template async_wait<1>();
      ctx.sync();  // the values are there
      DROPBP_UNROLL
      for (unsigned step = 0; step < tile / 16; ++step) {
        std::uint32_t p[4];
        pack_operand(p, s[2 * step], s[2 * step + 1]);
        add_product<size>(ctx, sums, p, v + 16 * step * Tile::stride, lane);
      }
    }

    float factors[2];
    DROPBP_UNROLL
    for (unsigned half = 0; half < 2; ++half) {
      DROPBP_UNROLL
      for (unsigned mask = 1; mask < 4; mask *= 2)
        total[half] += ctx.shuffle_xor(total[half], mask);
      factors[half] = 1.0f / total[half];
      const unsigned row = warp_row + lane.group + 8 * half;
      if (lane.member == 0 && row < rows)
        lse[(task.batch * shape.heads + task.head) * shape.sequence + first + row] =
            largest[half] / log2_of_e + std::log(total[half]);
    }
    store_rows<size>(
        ctx, o.row(task.batch * shape.sequence + first + warp_row) + task.head * shape.head_size,
        o.stride, sums, factors, rows - warp_row, shape.head_size, lane, vectorised);
  }
};

// Rows whose scores a warp of the backward pass holds at a time.
inline constexpr unsigned mma_chunk = 32;

/// A block for 64 queries of a head: grad_q, tile of keys by tile of keys.
template <unsigned size>
struct AttentionBackwardQueriesMma {
  using Tile = MmaTile<size>;
  static constexpr const char* name = "attention_backward_queries<BFloat16>";
  static constexpr unsigned threads = Tile::threads;
  static constexpr unsigned min_blocks = 2;
  static constexpr unsigned tile = Tile::rows;
  static constexpr std::size_t shared_bytes = 4 * Tile::bytes;

  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, Rows<BFloat16> grad_qkv, Rows<const BFloat16> grad_o,
                                Rows<const BFloat16> qkv, const float* lse, const float* delta,
                                AttentionShape shape, float scale, bool vectorised) const {
    const Index tiles = divide_up(shape.sequence, tile);
    AttentionTask task = attention_task(ctx, tiles, shape.heads);
    task.tile = tiles - 1 - task.tile;
    const Index first = task.tile * tile, rows = least(tile, shape.sequence - first),
                token = task.batch * shape.sequence;
    const Index query_column = task.head * shape.head_size;
    const BFloat16* const keys =
        qkv.row(token) + shape.q_width() + task.head / shape.group() * shape.head_size;
    const BFloat16* const values = keys + shape.kv_width();

    auto* const q = reinterpret_cast<std::uint32_t*>(ctx.shared());
    std::uint32_t *const d_o = q + Tile::words, *const k = d_o + Tile::words,
                         *const v = k + Tile::words;
    copy_tile<size>(ctx, q, qkv.row(token + first) + query_column, qkv.stride, rows,
                    shape.head_size, vectorised);
    copy_tile<size>(ctx, d_o, grad_o.row(token + first) + query_column, grad_o.stride, rows,
                    shape.head_size, vectorised);

    const Lane lane = lane_of(ctx);
    const unsigned warp_row = ctx.thread() / 32 * 16;
    const float scale2 = scale * log2_of_e;
    float shift[2], row_delta[2];
    DROPBP_UNROLL
    for (unsigned half = 0; half < 2; ++half) {
      const unsigned row = warp_row + lane.group + 8 * half;
      const Index at = (task.batch * shape.heads + task.head) * shape.sequence + first + row;
      shift[half] = row < rows ? lse[at] * log2_of_e : INFINITY;
      row_delta[half] = row < rows ? delta[at] : 0.0f;
    }
    float sums[size / 8][4] = {};
    for (Index block = 0; block <= task.tile; ++block) {
      if (block > 0) ctx.sync();  // the tiles before are done with
      const Index key = block * tile, count = least(tile, shape.sequence - key);
      copy_tile<size>(ctx, k, keys + key * qkv.stride, qkv.stride, count, shape.head_size,
                      vectorised);
      copy_tile<size>(ctx, v, values + key * qkv.stride, qkv.stride, count, shape.head_size,
                      vectorised);
      ctx.async_commit();
      ctx.template async_wait<0>();
      ctx.sync();
      // Not unrolled: one chunk's scores at a time are enough registers.
      for (unsigned chunk = 0; chunk < tile; chunk += mma_chunk) {
        if (block == task.tile && chunk > warp_row + 15) break;  // all behind the warp's queries
        float s[mma_chunk / 8][4], ds[mma_chunk / 8][4];
        multiply_rows<size>(ctx, s, q + warp_row * Tile::stride, k + chunk * Tile::stride, lane);
        multiply_rows<size>(ctx, ds, d_o + warp_row * Tile::stride, v + chunk * Tile::stride, lane);
        DROPBP_UNROLL
        for (unsigned i = 0; i < mma_chunk / 8; ++i) DROPBP_UNROLL
        for (unsigned j = 0; j < 4; ++j) {
          const bool visible = block < task.tile || chunk + 8 * i + 2 * lane.member + j % 2 <=
                                                        warp_row + lane.group + 8 * (j / 2);
          const float p = visible ? std::exp2(s[i][j] * scale2 - shift[j / 2]) : 0.0f;
          ds[i][j] = p * (ds[i][j] - row_delta[j / 2]) * scale;
        }
        DROPBP_UNROLL
        for (unsigned step = 0; step < mma_chunk / 16; ++step) {
          std::uint32_t a[4];
          pack_operand(a, ds[2 * step], ds[2 * step + 1]);
          add_product<size>(ctx, sums, a, k + (chunk + 16 * step) * Tile::stride, lane);
        }
      }
    }
    const float factors[2] = {1.0f, 1.0f};
    store_rows<size>(ctx, grad_qkv.row(token + first + warp_row) + query_column, grad_qkv.stride,
                     sums, factors, rows - warp_row, shape.head_size, lane, vectorised);
  }
};

/// A block for 64 keys of a kv head: grad_k and grad_v, query head by query head, tile by tile.
template <unsigned size>
struct AttentionBackwardKeysMma {
  using Tile = MmaTile<size>;
  static constexpr const char* name = "attention_backward_keys<BFloat16>";
  static constexpr unsigned threads = Tile::threads;
  static constexpr unsigned min_blocks = 2;
  static constexpr unsigned tile = Tile::rows;
  static constexpr std::size_t shared_bytes = 4 * Tile::bytes + 2 * tile * sizeof(float);

  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, Rows<BFloat16> grad_qkv, Rows<const BFloat16> grad_o,
                                Rows<const BFloat16> qkv, const float* lse, const float* delta,
                                AttentionShape shape, float scale, bool vectorised) const {
    const Index tiles = divide_up(shape.sequence, tile);
    const AttentionTask task =
        attention_task(ctx, tiles, shape.kv_heads);  // the first keys are seen by most queries
    const Index first = task.tile * tile, rows = least(tile, shape.sequence - first),
                token = task.batch * shape.sequence;
    const Index key_column = shape.q_width() + task.head * shape.head_size;

    auto* const k = reinterpret_cast<std::uint32_t*>(ctx.shared());
    std::uint32_t *const v = k + Tile::words, *const q = v + Tile::words,
                         *const d_o = q + Tile::words;
    auto* const shifts = reinterpret_cast<float*>(d_o + Tile::words);
    float* const deltas = shifts + tile;
    const BFloat16* const keys = qkv.row(token + first) + key_column;
    copy_tile<size>(ctx, k, keys, qkv.stride, rows, shape.head_size, vectorised);
    copy_tile<size>(ctx, v, keys + shape.kv_width(), qkv.stride, rows, shape.head_size, vectorised);

    const Lane lane = lane_of(ctx);
    const unsigned warp_row = ctx.thread() / 32 * 16;
    const float scale2 = scale * log2_of_e;
    float key_sums[size / 8][4] = {}, value_sums[size / 8][4] = {};
    for (Index i = 0; i < shape.group() * (tiles - task.tile); ++i) {
      const Index head = task.head * shape.group() + i / (tiles - task.tile),
                  block = task.tile + i % (tiles - task.tile);
      const Index query = block * tile, count = least(tile, shape.sequence - query);
      if (i > 0) ctx.sync();  // the tiles before are done with
      copy_tile<size>(ctx, q, qkv.row(token + query) + head * shape.head_size, qkv.stride, count,
                      shape.head_size, vectorised);
      copy_tile<size>(ctx, d_o, grad_o.row(token + query) + head * shape.head_size, grad_o.stride,
                      count, shape.head_size, vectorised);
      ctx.async_commit();
      for (unsigned row = ctx.thread(); row < tile; row += threads) {
        const Index at = (task.batch * shape.heads + head) * shape.sequence + query + row;
        shifts[row] = row < count ? lse[at] * log2_of_e : INFINITY;
        deltas[row] = row < count ? delta[at] : 0.0f;
      }
      ctx.template async_wait<0>();
      ctx.sync();
      for (unsigned chunk = 0; chunk < tile; chunk += mma_chunk) {
        if (block == task.tile && chunk + mma_chunk <= warp_row)
          continue;  // all before the warp's keys
        float p[mma_chunk / 8][4], ds[mma_chunk / 8][4];
        multiply_rows<size>(ctx, p, k + warp_row * Tile::stride, q + chunk * Tile::stride, lane);
        multiply_rows<size>(ctx, ds, v + warp_row * Tile::stride, d_o + chunk * Tile::stride, lane);
        DROPBP_UNROLL
        for (unsigned n = 0; n < mma_chunk / 8; ++n) DROPBP_UNROLL
        for (unsigned j = 0; j < 4; ++j) {
          const unsigned column = chunk + 8 * n + 2 * lane.member + j % 2;
          const bool visible = block > task.tile || warp_row + lane.group + 8 * (j / 2) <= column;
          p[n][j] = visible ? std::exp2(p[n][j] * scale2 - shifts[column]) : 0.0f;
          ds[n][j] = p[n][j] * (ds[n][j] - deltas[column]) * scale;
        }
        DROPBP_UNROLL
        for (unsigned step = 0; step < mma_chunk / 16; ++step) {
          std::uint32_t a[4];
          pack_operand(a, p[2 * step], p[2 * step + 1]);
          add_product<size>(ctx, value_sums, a, d_o + (chunk + 16 * step) * Tile::stride, lane);
          pack_operand(a, ds[2 * step], ds[2 * step + 1]);
          add_product<size>(ctx, key_sums, a, q + (chunk + 16 * step) * Tile::stride, lane);
        }
      }
    }
    const float factors[2] = {1.0f, 1.0f};
    BFloat16* const target = grad_qkv.row(token + first + warp_row) + key_column;
    store_rows<size>(ctx, target, grad_qkv.stride, key_sums, factors, rows - warp_row,
                     shape.head_size, lane, vectorised);
    store_rows<size>(ctx, target + shape.kv_width(), grad_qkv.stride, value_sums, factors,
                     rows - warp_row, shape.head_size, lane, vectorised);
  }
};

}  // namespace detail
}  // namespace cuda
DROPBP_NAMESPACE_END
