// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Causal grouped-query attention in tiles with an online softmax, and its backward pass in two kernels that add in a fixed
// order, without atomics. Source: Dao, "FlashAttention-2" (arXiv 2307.08691). BFloat16 goes through the tensor cores, float and
// Half through float multiply-adds.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

#include "dropbp/backend/cuda/context.hpp"
#include "dropbp/base/error.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {

/// Tokens are the rows b * sequence + position of a matrix. A row of qkv holds the query heads, then the key heads, then the
/// value heads; query head h uses kv head h / (heads / kv_heads).
struct AttentionShape {
  Index batch;      ///< sequences
  Index sequence;   ///< tokens of each
  Index heads;      ///< query heads
  Index kv_heads;   ///< key heads, and value heads; divides heads
  Index head_size;  ///< elements of a head, at most 128

  DROPBP_HOST_DEVICE Index tokens() const { return batch * sequence; }         ///< rows
  DROPBP_HOST_DEVICE Index group() const { return heads / kv_heads; }          ///< query heads that share a kv head
  DROPBP_HOST_DEVICE Index q_width() const { return heads * head_size; }       ///< elements of all query heads
  DROPBP_HOST_DEVICE Index kv_width() const { return kv_heads * head_size; }   ///< elements of all key heads
  DROPBP_HOST_DEVICE Index statistics() const { return batch * heads * sequence; }  ///< a number for each head and token
};

namespace detail {

inline constexpr float log2_of_e = 1.44269504088896341f;

/// One head of one sequence, and which tile of its tokens a block works on.
struct AttentionTask {
  Index tile;   ///< of `rows` tokens each
  Index head;   ///< of the query heads, or of the kv heads
  Index batch;  ///< sequence
};

// The tiles of a head lie side by side: blocks that run at the same time read the same keys.
template <class Context>
DROPBP_DEVICE AttentionTask attention_task(Context ctx, Index tiles, Index heads) {
  const Index block = ctx.block();
  return {block % tiles, block / tiles % heads, block / tiles / heads};
}

DROPBP_DEVICE Index least(Index a, Index b) { return a < b ? a : b; }

// ---- BFloat16: tiles of 64 tokens in shared memory, a warp for 16 of them, mma.m16n8k16
//
// A tile's rows are 32-bit words, two elements each, size / 2 + 4 of them: then the 32 lanes of a fragment meet 32 banks. Where
// an operand is needed across its rows, a lane reads the words of two columns and two products share them: their columns are the even and
// the odd ones of 16, so that a lane ends with four columns side by side.

template <unsigned size>
struct MmaTile {
  static constexpr unsigned rows = 64;                       ///< tokens
  static constexpr unsigned threads = 128;                   ///< of a block: a warp for 16 rows
  static constexpr unsigned stride = size / 2 + 4;           ///< words of a row
  static constexpr unsigned words = rows * stride;           ///< of the tile
  static constexpr std::size_t bytes = std::size_t{4} * words;  ///< the same
};

// Rows that are not there and columns beyond the head become zero. Vectorised rows arrive after a commit and a wait.
template <unsigned size, class Context>
DROPBP_DEVICE void copy_tile(Context ctx, std::uint32_t* to, const BFloat16* from, Index from_stride, Index rows, Index columns,
                             bool vectorised) {
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
        if (column + 1 < columns) word |= static_cast<std::uint32_t>(ctx.template load<BFloat16, 1>(source + 1).values[0].bits) << 16;
      }
      to[row * Tile::stride + column / 2] = word;
    }
  }
}

DROPBP_DEVICE std::uint32_t low_halves(std::uint32_t first, std::uint32_t second) { return (first & 0xFFFFu) | second << 16; }
DROPBP_DEVICE std::uint32_t high_halves(std::uint32_t first, std::uint32_t second) { return first >> 16 | (second & 0xFFFF0000u); }
DROPBP_DEVICE std::uint32_t pair_of(float first, float second) {
  return from_float<BFloat16>(first).bits | static_cast<std::uint32_t>(from_float<BFloat16>(second).bits) << 16;
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
DROPBP_DEVICE void load_rows(std::uint32_t (&a)[4], const std::uint32_t* tile, Lane lane, unsigned step) {
  const std::uint32_t* const word = tile + lane.group * stride + 8 * step + lane.member;
  a[0] = word[0], a[1] = word[8 * stride], a[2] = word[4], a[3] = word[8 * stride + 4];
}

// Rows 0 to 7 and columns 16 * step on, as the second operand, transposed.
template <unsigned stride>
DROPBP_DEVICE void load_transposed(std::uint32_t (&b)[2], const std::uint32_t* tile, Lane lane, unsigned step) {
  const std::uint32_t* const word = tile + lane.group * stride + 8 * step + lane.member;
  b[0] = word[0], b[1] = word[4];
}

// Rows 0 to 15 as the second operand: of columns 16 * step on, the even ones and the odd ones.
template <unsigned stride>
DROPBP_DEVICE void load_columns(std::uint32_t (&even)[2], std::uint32_t (&odd)[2], const std::uint32_t* tile, Lane lane,
                                unsigned step) {
  const std::uint32_t* const word = tile + 2 * lane.member * stride + 8 * step + lane.group;
  DROPBP_UNROLL
  for (unsigned i = 0; i < 2; ++i) {
    const std::uint32_t first = word[8 * i * stride], second = word[(8 * i + 1) * stride];
    even[i] = low_halves(first, second), odd[i] = high_halves(first, second);
  }
}

// What products left in a lane, for 16 rows and 16 columns, as the first operand of the next one.
DROPBP_DEVICE void pack_operand(std::uint32_t (&a)[4], const float (&left)[4], const float (&right)[4]) {
  a[0] = pair_of(left[0], left[1]), a[1] = pair_of(left[2], left[3]);
  a[2] = pair_of(right[0], right[1]), a[3] = pair_of(right[2], right[3]);
}

// sums [16 rows, size] += a [16, 16] tile [16 rows, size].
template <unsigned size, class Context>
DROPBP_DEVICE void add_product(Context ctx, float (&sums)[size / 8][4], const std::uint32_t (&a)[4], const std::uint32_t* tile,
                               Lane lane) {
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
DROPBP_DEVICE void multiply_rows(Context ctx, float (&products)[count][4], const std::uint32_t* x, const std::uint32_t* y, Lane lane) {
  constexpr unsigned stride = MmaTile<size>::stride;
  DROPBP_UNROLL
  for (unsigned i = 0; i < count; ++i) products[i][0] = products[i][1] = products[i][2] = products[i][3] = 0.0f;
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
DROPBP_DEVICE void store_rows(Context ctx, BFloat16* to, Index to_stride, const float (&sums)[size / 8][4], const float (&factors)[2],
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
        values.values[i] = from_float<BFloat16>(sums[2 * step + i % 2][2 * half + i / 2] * factors[half]);
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
  DROPBP_DEVICE void operator()(Context ctx, Rows<BFloat16> o, float* lse, Rows<const BFloat16> qkv, AttentionShape shape,
                                float scale, bool vectorised) const {
    const Index tiles = divide_up(shape.sequence, tile);
    AttentionTask task = attention_task(ctx, tiles, shape.heads);
    task.tile = tiles - 1 - task.tile;  // the longest first: the last blocks are then the short ones
    const Index first = task.tile * tile, rows = least(tile, shape.sequence - first);
    const BFloat16* const sequence = qkv.row(task.batch * shape.sequence);
    const BFloat16* const queries = sequence + task.head * shape.head_size;
    const BFloat16* const keys = sequence + shape.q_width() + task.head / shape.group() * shape.head_size;
    const BFloat16* const values = keys + shape.kv_width();

    auto* const q = reinterpret_cast<std::uint32_t*>(ctx.shared());
    std::uint32_t *const k = q + Tile::words, *const v = k + Tile::words;
    const auto copy = [&](std::uint32_t* to, const BFloat16* from, Index row) {
      copy_tile<size>(ctx, to, from + row * qkv.stride, qkv.stride, least(tile, shape.sequence - row), shape.head_size, vectorised);
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
        for (unsigned i = 0; i < tile / 8; ++i)
          DROPBP_UNROLL
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
        for (unsigned i = 0; i < tile / 8; ++i)
          DROPBP_UNROLL
          for (unsigned j = 0; j < 2; ++j) sum += s[i][2 * half + j] = std::exp2(s[i][2 * half + j] - most);
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
      for (unsigned mask = 1; mask < 4; mask *= 2) total[half] += ctx.shuffle_xor(total[half], mask);
      factors[half] = 1.0f / total[half];
      const unsigned row = warp_row + lane.group + 8 * half;
      if (lane.member == 0 && row < rows)
        lse[(task.batch * shape.heads + task.head) * shape.sequence + first + row] = largest[half] / log2_of_e + std::log(total[half]);
    }
    store_rows<size>(ctx, o.row(task.batch * shape.sequence + first + warp_row) + task.head * shape.head_size, o.stride, sums, factors,
                     rows - warp_row, shape.head_size, lane, vectorised);
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
  DROPBP_DEVICE void operator()(Context ctx, Rows<BFloat16> grad_qkv, Rows<const BFloat16> grad_o, Rows<const BFloat16> qkv,
                                const float* lse, const float* delta, AttentionShape shape, float scale, bool vectorised) const {
    const Index tiles = divide_up(shape.sequence, tile);
    AttentionTask task = attention_task(ctx, tiles, shape.heads);
    task.tile = tiles - 1 - task.tile;
    const Index first = task.tile * tile, rows = least(tile, shape.sequence - first), token = task.batch * shape.sequence;
    const Index query_column = task.head * shape.head_size;
    const BFloat16* const keys = qkv.row(token) + shape.q_width() + task.head / shape.group() * shape.head_size;
    const BFloat16* const values = keys + shape.kv_width();

    auto* const q = reinterpret_cast<std::uint32_t*>(ctx.shared());
    std::uint32_t *const d_o = q + Tile::words, *const k = d_o + Tile::words, *const v = k + Tile::words;
    copy_tile<size>(ctx, q, qkv.row(token + first) + query_column, qkv.stride, rows, shape.head_size, vectorised);
    copy_tile<size>(ctx, d_o, grad_o.row(token + first) + query_column, grad_o.stride, rows, shape.head_size, vectorised);

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
      copy_tile<size>(ctx, k, keys + key * qkv.stride, qkv.stride, count, shape.head_size, vectorised);
      copy_tile<size>(ctx, v, values + key * qkv.stride, qkv.stride, count, shape.head_size, vectorised);
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
        for (unsigned i = 0; i < mma_chunk / 8; ++i)
          DROPBP_UNROLL
          for (unsigned j = 0; j < 4; ++j) {
            const bool visible = block < task.tile || chunk + 8 * i + 2 * lane.member + j % 2 <= warp_row + lane.group + 8 * (j / 2);
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
    store_rows<size>(ctx, grad_qkv.row(token + first + warp_row) + query_column, grad_qkv.stride, sums, factors, rows - warp_row,
                     shape.head_size, lane, vectorised);
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
  DROPBP_DEVICE void operator()(Context ctx, Rows<BFloat16> grad_qkv, Rows<const BFloat16> grad_o, Rows<const BFloat16> qkv,
                                const float* lse, const float* delta, AttentionShape shape, float scale, bool vectorised) const {
    const Index tiles = divide_up(shape.sequence, tile);
    const AttentionTask task = attention_task(ctx, tiles, shape.kv_heads);  // the first keys are seen by most queries
    const Index first = task.tile * tile, rows = least(tile, shape.sequence - first), token = task.batch * shape.sequence;
    const Index key_column = shape.q_width() + task.head * shape.head_size;

    auto* const k = reinterpret_cast<std::uint32_t*>(ctx.shared());
    std::uint32_t *const v = k + Tile::words, *const q = v + Tile::words, *const d_o = q + Tile::words;
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
      const Index head = task.head * shape.group() + i / (tiles - task.tile), block = task.tile + i % (tiles - task.tile);
      const Index query = block * tile, count = least(tile, shape.sequence - query);
      if (i > 0) ctx.sync();  // the tiles before are done with
      copy_tile<size>(ctx, q, qkv.row(token + query) + head * shape.head_size, qkv.stride, count, shape.head_size, vectorised);
      copy_tile<size>(ctx, d_o, grad_o.row(token + query) + head * shape.head_size, grad_o.stride, count, shape.head_size, vectorised);
      ctx.async_commit();
      for (unsigned row = ctx.thread(); row < tile; row += threads) {
        const Index at = (task.batch * shape.heads + head) * shape.sequence + query + row;
        shifts[row] = row < count ? lse[at] * log2_of_e : INFINITY;
        deltas[row] = row < count ? delta[at] : 0.0f;
      }
      ctx.template async_wait<0>();
      ctx.sync();
      for (unsigned chunk = 0; chunk < tile; chunk += mma_chunk) {
        if (block == task.tile && chunk + mma_chunk <= warp_row) continue;  // all before the warp's keys
        float p[mma_chunk / 8][4], ds[mma_chunk / 8][4];
        multiply_rows<size>(ctx, p, k + warp_row * Tile::stride, q + chunk * Tile::stride, lane);
        multiply_rows<size>(ctx, ds, v + warp_row * Tile::stride, d_o + chunk * Tile::stride, lane);
        DROPBP_UNROLL
        for (unsigned n = 0; n < mma_chunk / 8; ++n)
          DROPBP_UNROLL
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
    store_rows<size>(ctx, target, grad_qkv.stride, key_sums, factors, rows - warp_row, shape.head_size, lane, vectorised);
    store_rows<size>(ctx, target + shape.kv_width(), grad_qkv.stride, value_sums, factors, rows - warp_row, shape.head_size, lane,
                     vectorised);
  }
};

// ---- float and Half: tiles of floats in shared memory, 16 x 16 threads
//
// Thread (y, x) has rows y + 16 i of a tile; of the columns of scores x + 16 j, of the elements of a head 2 x + 32 j and the next.

template <unsigned size, unsigned tile_rows>
struct FmaTile {
  static constexpr unsigned rows = tile_rows;             ///< tokens
  static constexpr unsigned threads = 256;                ///< of a block
  static constexpr unsigned own = rows / 16;              ///< rows of a thread
  static constexpr unsigned pairs = size / 32;            ///< pairs of columns of a thread
  static constexpr unsigned stride = size + 4;            ///< floats of a row; + 4 spreads rows over the banks
  static constexpr unsigned score_stride = rows + 4;      ///< the same of scores
  static constexpr std::size_t bytes = sizeof(float) * rows * stride;               ///< of a tile
  static constexpr std::size_t score_bytes = sizeof(float) * rows * score_stride;   ///< of its scores
};

// As copy_tile, but for the types, and done at once.
template <class Tile, unsigned size, class Context, class T>
DROPBP_DEVICE void widen_tile(Context ctx, float* to, const T* from, Index from_stride, Index rows, Index columns, bool vectorised) {
  constexpr unsigned pieces = size / 4;
  for (unsigned i = ctx.thread(); i < Tile::rows * pieces; i += Tile::threads) {
    const unsigned row = i / pieces, column = 4 * (i % pieces);
    Pack<float, 4> values = {};
    if (row < rows) {
      const T* const source = from + row * from_stride + column;
      if (vectorised) {
        if (column < columns) {
          const Pack<T, 4> given = ctx.template load<T, 4>(source);
          DROPBP_UNROLL
          for (unsigned j = 0; j < 4; ++j) values.values[j] = to_float(given.values[j]);
        }
      } else {
        DROPBP_UNROLL
        for (unsigned j = 0; j < 4; ++j)
          if (column + j < columns) values.values[j] = to_float(ctx.template load<T, 1>(source + j).values[0]);
      }
    }
    ctx.store_shared(to + row * Tile::stride + column, values);
  }
}

// products = rows of x times rows of y.
template <class Tile, unsigned size, class Context>
DROPBP_DEVICE void multiply_rows_fma(Context ctx, float (&products)[Tile::own][Tile::own], const float* x, const float* y) {
  const unsigned ty = ctx.thread() / 16, tx = ctx.thread() % 16;
  DROPBP_UNROLL
  for (unsigned i = 0; i < Tile::own; ++i)
    DROPBP_UNROLL
    for (unsigned j = 0; j < Tile::own; ++j) products[i][j] = 0.0f;
  // More at a time would need more registers than two blocks leave each other.
  DROPBP_NO_UNROLL
  for (unsigned first = 0; first < size; first += 16) {
    DROPBP_UNROLL
    for (unsigned column = first; column < first + 16; column += 4) {
      Pack<float, 4> a[Tile::own];
      DROPBP_UNROLL
      for (unsigned i = 0; i < Tile::own; ++i) a[i] = ctx.template load_shared<float, 4>(x + (ty + 16 * i) * Tile::stride + column);
      DROPBP_UNROLL
      for (unsigned j = 0; j < Tile::own; ++j) {
        const Pack<float, 4> b = ctx.template load_shared<float, 4>(y + (tx + 16 * j) * Tile::stride + column);
        DROPBP_UNROLL
        for (unsigned i = 0; i < Tile::own; ++i)
          DROPBP_UNROLL
          for (unsigned e = 0; e < 4; ++e) products[i][j] += a[i].values[e] * b.values[e];
      }
    }
  }
}

// sums += scores (rows of them in shared memory) times the rows of a tile.
template <class Tile, class Context>
DROPBP_DEVICE void add_product_fma(Context ctx, float (&sums)[Tile::own][Tile::pairs][2], const float* scores, const float* tile) {
  const unsigned ty = ctx.thread() / 16, tx = ctx.thread() % 16;
  DROPBP_NO_UNROLL
  for (unsigned row = 0; row < Tile::rows; row += 4) {
    Pack<float, 4> a[Tile::own];
    DROPBP_UNROLL
    for (unsigned i = 0; i < Tile::own; ++i) a[i] = ctx.template load_shared<float, 4>(scores + (ty + 16 * i) * Tile::score_stride + row);
    DROPBP_UNROLL
    for (unsigned e = 0; e < 4; ++e)
      DROPBP_UNROLL
      for (unsigned j = 0; j < Tile::pairs; ++j) {
        const Pack<float, 2> b = ctx.template load_shared<float, 2>(tile + (row + e) * Tile::stride + 2 * tx + 32 * j);
        DROPBP_UNROLL
        for (unsigned i = 0; i < Tile::own; ++i) {
          sums[i][j][0] += a[i].values[e] * b.values[0];
          sums[i][j][1] += a[i].values[e] * b.values[1];
        }
      }
  }
}

template <class Tile, class Context, class T>
DROPBP_DEVICE void store_rows_fma(Context ctx, T* to, Index to_stride, const float (&sums)[Tile::own][Tile::pairs][2],
                                  const float (&factors)[Tile::own], Index rows, Index columns, bool vectorised) {
  const unsigned ty = ctx.thread() / 16, tx = ctx.thread() % 16;
  DROPBP_UNROLL
  for (unsigned i = 0; i < Tile::own; ++i) {
    const unsigned row = ty + 16 * i;
    if (row >= rows) continue;
    DROPBP_UNROLL
    for (unsigned j = 0; j < Tile::pairs; ++j) {
      const unsigned column = 2 * tx + 32 * j;
      const Pack<T, 2> values = {{from_float<T>(sums[i][j][0] * factors[i]), from_float<T>(sums[i][j][1] * factors[i])}};
      T* const target = to + row * to_stride + column;
      if (vectorised) {
        if (column < columns) ctx.store(target, values);
      } else {
        if (column < columns) ctx.store(target, Pack<T, 1>{{values.values[0]}});
        if (column + 1 < columns) ctx.store(target + 1, Pack<T, 1>{{values.values[1]}});
      }
    }
  }
}

/// A block for 64 queries of a head.
template <class T, unsigned size>
struct AttentionForwardFma {
  using Tile = FmaTile<size, 64>;
  static constexpr const char* name = "attention_forward";
  static constexpr unsigned threads = Tile::threads;
  static constexpr unsigned min_blocks = size <= 64 ? 2 : 1;
  static constexpr unsigned tile = Tile::rows;
  static constexpr std::size_t shared_bytes = 2 * Tile::bytes + Tile::score_bytes;

  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, Rows<T> o, float* lse, Rows<const T> qkv, AttentionShape shape, float scale,
                                bool vectorised) const {
    const Index tiles = divide_up(shape.sequence, tile);
    AttentionTask task = attention_task(ctx, tiles, shape.heads);
    task.tile = tiles - 1 - task.tile;
    const Index first = task.tile * tile, rows = least(tile, shape.sequence - first), token = task.batch * shape.sequence;
    const T* const keys = qkv.row(token) + shape.q_width() + task.head / shape.group() * shape.head_size;
    const unsigned ty = ctx.thread() / 16, tx = ctx.thread() % 16;
    auto* const q = reinterpret_cast<float*>(ctx.shared());
    float *const kv = q + Tile::rows * Tile::stride, *const scores = kv + Tile::rows * Tile::stride;
    widen_tile<Tile, size>(ctx, q, qkv.row(token + first) + task.head * shape.head_size, qkv.stride, rows, shape.head_size, vectorised);

    const float scale2 = scale * log2_of_e;
    float sums[Tile::own][Tile::pairs][2] = {}, largest[Tile::own], total[Tile::own] = {};
    DROPBP_UNROLL
    for (unsigned i = 0; i < Tile::own; ++i) largest[i] = -INFINITY;
    for (Index block = 0; block <= task.tile; ++block) {
      const Index key = block * tile, count = least(tile, shape.sequence - key);
      if (block > 0) ctx.sync();  // the values before are done with
      widen_tile<Tile, size>(ctx, kv, keys + key * qkv.stride, qkv.stride, count, shape.head_size, vectorised);
      ctx.sync();
      float s[Tile::own][Tile::own];
      multiply_rows_fma<Tile, size>(ctx, s, q, kv);
      DROPBP_UNROLL
      for (unsigned i = 0; i < Tile::own; ++i) {
        const unsigned row = ty + 16 * i;
        float most = largest[i];
        DROPBP_UNROLL
        for (unsigned j = 0; j < Tile::own; ++j) {
          s[i][j] *= scale2;
          if (block == task.tile && tx + 16 * j > row) s[i][j] = -INFINITY;
          most = s[i][j] > most ? s[i][j] : most;
        }
        DROPBP_UNROLL
        for (unsigned mask = 1; mask < 16; mask *= 2) {
          const float other = ctx.shuffle_xor(most, mask);
          most = other > most ? other : most;
        }
        const float shrink = std::exp2(largest[i] - most);
        largest[i] = most;
        float sum = 0.0f;
        DROPBP_UNROLL
        for (unsigned j = 0; j < Tile::own; ++j) {
          const float p = std::exp2(s[i][j] - most);
          sum += p;
          scores[row * Tile::score_stride + tx + 16 * j] = p;
        }
        total[i] = total[i] * shrink + sum;
        DROPBP_UNROLL
        for (unsigned j = 0; j < Tile::pairs; ++j) sums[i][j][0] *= shrink, sums[i][j][1] *= shrink;
      }
      ctx.sync();  // the keys are done with, the scores are there
      widen_tile<Tile, size>(ctx, kv, keys + shape.kv_width() + key * qkv.stride, qkv.stride, count, shape.head_size, vectorised);
      ctx.sync();
      add_product_fma<Tile>(ctx, sums, scores, kv);
    }

    float factors[Tile::own];
    DROPBP_UNROLL
    for (unsigned i = 0; i < Tile::own; ++i) {
      DROPBP_UNROLL
      for (unsigned mask = 1; mask < 16; mask *= 2) total[i] += ctx.shuffle_xor(total[i], mask);
      factors[i] = 1.0f / total[i];
      const unsigned row = ty + 16 * i;
      if (tx == 0 && row < rows)
        lse[(task.batch * shape.heads + task.head) * shape.sequence + first + row] = largest[i] / log2_of_e + std::log(total[i]);
    }
    store_rows_fma<Tile>(ctx, o.row(token + first) + task.head * shape.head_size, o.stride, sums, factors, rows, shape.head_size,
                         vectorised);
  }
};

/// A block for 32 queries of a head: grad_q, tile of keys by tile of keys.
template <class T, unsigned size>
struct AttentionBackwardQueriesFma {
  using Tile = FmaTile<size, 32>;
  static constexpr const char* name = "attention_backward_queries";
  static constexpr unsigned threads = Tile::threads;
  static constexpr unsigned min_blocks = 2;
  static constexpr unsigned tile = Tile::rows;
  static constexpr std::size_t shared_bytes = 4 * Tile::bytes + Tile::score_bytes;

  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, Rows<T> grad_qkv, Rows<const T> grad_o, Rows<const T> qkv, const float* lse,
                                const float* delta, AttentionShape shape, float scale, bool vectorised) const {
    const Index tiles = divide_up(shape.sequence, tile);
    AttentionTask task = attention_task(ctx, tiles, shape.heads);
    task.tile = tiles - 1 - task.tile;
    const Index first = task.tile * tile, rows = least(tile, shape.sequence - first), token = task.batch * shape.sequence;
    const Index query_column = task.head * shape.head_size;
    const T* const keys = qkv.row(token) + shape.q_width() + task.head / shape.group() * shape.head_size;
    const unsigned ty = ctx.thread() / 16, tx = ctx.thread() % 16;
    constexpr unsigned floats = Tile::rows * Tile::stride;
    auto* const q = reinterpret_cast<float*>(ctx.shared());
    float *const d_o = q + floats, *const k = d_o + floats, *const v = k + floats, *const scores = v + floats;
    widen_tile<Tile, size>(ctx, q, qkv.row(token + first) + query_column, qkv.stride, rows, shape.head_size, vectorised);
    widen_tile<Tile, size>(ctx, d_o, grad_o.row(token + first) + query_column, grad_o.stride, rows, shape.head_size, vectorised);

    const float scale2 = scale * log2_of_e;
    float sums[Tile::own][Tile::pairs][2] = {}, shift[Tile::own], row_delta[Tile::own];
    DROPBP_UNROLL
    for (unsigned i = 0; i < Tile::own; ++i) {
      const unsigned row = ty + 16 * i;
      const Index at = (task.batch * shape.heads + task.head) * shape.sequence + first + row;
      shift[i] = row < rows ? lse[at] * log2_of_e : INFINITY;
      row_delta[i] = row < rows ? delta[at] : 0.0f;
    }
    for (Index block = 0; block <= task.tile; ++block) {
      const Index key = block * tile, count = least(tile, shape.sequence - key);
      if (block > 0) ctx.sync();
      widen_tile<Tile, size>(ctx, k, keys + key * qkv.stride, qkv.stride, count, shape.head_size, vectorised);
      widen_tile<Tile, size>(ctx, v, keys + shape.kv_width() + key * qkv.stride, qkv.stride, count, shape.head_size, vectorised);
      ctx.sync();
      float s[Tile::own][Tile::own], ds[Tile::own][Tile::own];
      multiply_rows_fma<Tile, size>(ctx, s, q, k);
      multiply_rows_fma<Tile, size>(ctx, ds, d_o, v);
      DROPBP_UNROLL
      for (unsigned i = 0; i < Tile::own; ++i)
        DROPBP_UNROLL
        for (unsigned j = 0; j < Tile::own; ++j) {
          const bool visible = block < task.tile || tx + 16 * j <= ty + 16 * i;
          const float p = visible ? std::exp2(s[i][j] * scale2 - shift[i]) : 0.0f;
          scores[(ty + 16 * i) * Tile::score_stride + tx + 16 * j] = p * (ds[i][j] - row_delta[i]) * scale;
        }
      ctx.sync();
      add_product_fma<Tile>(ctx, sums, scores, k);
    }
    float factors[Tile::own];
    DROPBP_UNROLL
    for (unsigned i = 0; i < Tile::own; ++i) factors[i] = 1.0f;
    store_rows_fma<Tile>(ctx, grad_qkv.row(token + first) + query_column, grad_qkv.stride, sums, factors, rows, shape.head_size,
                         vectorised);
  }
};

/// A block for 32 keys of a kv head: grad_k and grad_v, query head by query head, tile by tile.
template <class T, unsigned size>
struct AttentionBackwardKeysFma {
  using Tile = FmaTile<size, 32>;
  static constexpr const char* name = "attention_backward_keys";
  static constexpr unsigned threads = Tile::threads;
  static constexpr unsigned min_blocks = size <= 64 ? 2 : 1;
  static constexpr unsigned tile = Tile::rows;
  static constexpr std::size_t shared_bytes = 4 * Tile::bytes + 2 * Tile::score_bytes + 2 * tile * sizeof(float);

  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, Rows<T> grad_qkv, Rows<const T> grad_o, Rows<const T> qkv, const float* lse,
                                const float* delta, AttentionShape shape, float scale, bool vectorised) const {
    const Index tiles = divide_up(shape.sequence, tile);
    const AttentionTask task = attention_task(ctx, tiles, shape.kv_heads);
    const Index first = task.tile * tile, rows = least(tile, shape.sequence - first), token = task.batch * shape.sequence;
    const Index key_column = shape.q_width() + task.head * shape.head_size;
    const unsigned ty = ctx.thread() / 16, tx = ctx.thread() % 16;
    constexpr unsigned floats = Tile::rows * Tile::stride, score_floats = Tile::rows * Tile::score_stride;
    auto* const k = reinterpret_cast<float*>(ctx.shared());
    float *const v = k + floats, *const q = v + floats, *const d_o = q + floats;
    float *const scores = d_o + floats, *const d_scores = scores + score_floats, *const shifts = d_scores + score_floats;
    float* const deltas = shifts + tile;
    const T* const keys = qkv.row(token + first) + key_column;
    widen_tile<Tile, size>(ctx, k, keys, qkv.stride, rows, shape.head_size, vectorised);
    widen_tile<Tile, size>(ctx, v, keys + shape.kv_width(), qkv.stride, rows, shape.head_size, vectorised);

    const float scale2 = scale * log2_of_e;
    float key_sums[Tile::own][Tile::pairs][2] = {}, value_sums[Tile::own][Tile::pairs][2] = {};
    for (Index n = 0; n < shape.group() * (tiles - task.tile); ++n) {
      const Index head = task.head * shape.group() + n / (tiles - task.tile), block = task.tile + n % (tiles - task.tile);
      const Index query = block * tile, count = least(tile, shape.sequence - query);
      if (n > 0) ctx.sync();
      widen_tile<Tile, size>(ctx, q, qkv.row(token + query) + head * shape.head_size, qkv.stride, count, shape.head_size, vectorised);
      widen_tile<Tile, size>(ctx, d_o, grad_o.row(token + query) + head * shape.head_size, grad_o.stride, count, shape.head_size,
                             vectorised);
      if (ctx.thread() < tile) {
        const Index at = (task.batch * shape.heads + head) * shape.sequence + query + ctx.thread();
        shifts[ctx.thread()] = ctx.thread() < count ? lse[at] * log2_of_e : INFINITY;
        deltas[ctx.thread()] = ctx.thread() < count ? delta[at] : 0.0f;
      }
      ctx.sync();
      float s[Tile::own][Tile::own], ds[Tile::own][Tile::own];
      multiply_rows_fma<Tile, size>(ctx, s, k, q);
      multiply_rows_fma<Tile, size>(ctx, ds, v, d_o);
      DROPBP_UNROLL
      for (unsigned i = 0; i < Tile::own; ++i)
        DROPBP_UNROLL
        for (unsigned j = 0; j < Tile::own; ++j) {
          const unsigned row = ty + 16 * i, column = tx + 16 * j;
          const bool visible = block > task.tile || row <= column;
          const float p = visible ? std::exp2(s[i][j] * scale2 - shifts[column]) : 0.0f;
          scores[row * Tile::score_stride + column] = p;
          d_scores[row * Tile::score_stride + column] = p * (ds[i][j] - deltas[column]) * scale;
        }
      ctx.sync();
      add_product_fma<Tile>(ctx, value_sums, scores, d_o);
      add_product_fma<Tile>(ctx, key_sums, d_scores, q);
    }
    float factors[Tile::own];
    DROPBP_UNROLL
    for (unsigned i = 0; i < Tile::own; ++i) factors[i] = 1.0f;
    T* const target = grad_qkv.row(token + first) + key_column;
    store_rows_fma<Tile>(ctx, target, grad_qkv.stride, key_sums, factors, rows, shape.head_size, vectorised);
    store_rows_fma<Tile>(ctx, target + shape.kv_width(), grad_qkv.stride, value_sums, factors, rows, shape.head_size, vectorised);
  }
};

// ---- both

/// delta = the sum over a head of grad_o times o: a warp for each head and token.
template <class T>
struct AttentionDelta {
  static constexpr const char* name = "attention_delta";
  static constexpr unsigned threads = 256;
  static constexpr unsigned min_blocks = 1;

  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, float* delta, Rows<const T> grad_o, Rows<const T> o, AttentionShape shape,
                                bool vectorised) const {
    const Index task = static_cast<Index>(ctx.block()) * (threads / 32) + ctx.thread() / 32;
    const unsigned lane = ctx.thread() % 32;
    if (task >= shape.statistics()) return;  // the whole warp
    const Index token = task / shape.heads, head = task % shape.heads;
    const T* const x = grad_o.row(token) + head * shape.head_size;
    const T* const y = o.row(token) + head * shape.head_size;
    float sum = 0.0f;
    if (vectorised) {
      if (4 * lane < shape.head_size) {
        const Pack<T, 4> a = ctx.template load<T, 4>(x + 4 * lane), b = ctx.template load<T, 4>(y + 4 * lane);
        DROPBP_UNROLL
        for (unsigned i = 0; i < 4; ++i) sum += to_float(a.values[i]) * to_float(b.values[i]);
      }
    } else {
      for (Index i = lane; i < shape.head_size; i += 32)
        sum += to_float(ctx.template load<T, 1>(x + i).values[0]) * to_float(ctx.template load<T, 1>(y + i).values[0]);
    }
    sum = warp_sum(ctx, sum);
    if (lane == 0)
      delta[(token / shape.sequence * shape.heads + head) * shape.sequence + token % shape.sequence] = sum;
  }
};

template <class T, unsigned size>
using AttentionForward = std::conditional_t<std::is_same_v<T, BFloat16>, AttentionForwardMma<size>, AttentionForwardFma<T, size>>;
template <class T, unsigned size>
using AttentionBackwardQueries =
    std::conditional_t<std::is_same_v<T, BFloat16>, AttentionBackwardQueriesMma<size>, AttentionBackwardQueriesFma<T, size>>;
template <class T, unsigned size>
using AttentionBackwardKeys =
    std::conditional_t<std::is_same_v<T, BFloat16>, AttentionBackwardKeysMma<size>, AttentionBackwardKeysFma<T, size>>;

inline void require_attention(const AttentionShape& shape) {
  const auto number = [](Index n) { return std::to_string(n); };
  if (shape.batch < 0 || shape.sequence < 0 || shape.kv_heads < 1 || shape.heads < 1 || shape.heads % shape.kv_heads != 0 ||
      shape.head_size < 1 || shape.head_size > 128)
    dropbp::detail::throw_invalid(
        "attention on a CUDA device needs heads of 1 to 128 elements and a number of query heads that the kv heads divide",
        number(shape.heads) + " heads of " + number(shape.head_size) + " elements, " + number(shape.kv_heads) + " kv heads, " +
            number(shape.batch) + " sequences of " + number(shape.sequence) + " tokens were given",
        "choose another number of heads, or use the CPU");
}

/// Calls `run` with the kernels' size of a head: the next one that there are kernels for.
template <class Run>
void with_head_size(Index head_size, Run run) {
  if (head_size <= 32)
    run(std::integral_constant<unsigned, 32>{});
  else if (head_size <= 64)
    run(std::integral_constant<unsigned, 64>{});
  else if (head_size <= 96)
    run(std::integral_constant<unsigned, 96>{});
  else
    run(std::integral_constant<unsigned, 128>{});
}

/// One block for each tile of each head of each sequence.
inline Grid attention_grid(const AttentionShape& shape, Index heads, Index tile, std::size_t shared_bytes) {
  return {.x = static_cast<unsigned>(shape.batch * heads * divide_up(shape.sequence, tile)), .y = 1, .z = 1, .shared_bytes = shared_bytes};
}

inline float attention_scale(const AttentionShape& shape) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_size)));
}

}  // namespace detail

/// o [tokens, heads * head_size] = softmax(q k^T / sqrt(head_size), causal) v of each head and sequence, with q and k already
/// rotated in qkv [tokens, (heads + 2 kv_heads) * head_size]; lse [batch, heads, sequence] = log of the softmax's denominators.
/// Throws std::invalid_argument for heads of more than 128 elements, or that do not divide.
template <class Launcher, class T>
void attention_forward(Launcher& launch, Rows<T> o, float* lse, std::type_identity_t<Rows<const T>> qkv, const AttentionShape& shape) {
  detail::require_attention(shape);
  if (shape.statistics() == 0) return;
  const bool vectorised = is_vectorizable(qkv, shape.tokens(), shape.head_size) && is_vectorizable(o, shape.tokens(), shape.head_size);
  detail::with_head_size(shape.head_size, [&](auto size) {
    using Body = detail::AttentionForward<T, size()>;
    launch(detail::attention_grid(shape, shape.heads, Body::tile, Body::shared_bytes), Body{}, o, lse, qkv, shape,
           detail::attention_scale(shape), vectorised);
  });
}

/// Bytes of the scratch of attention_backward: a float for each head and token.
inline std::size_t attention_workspace(const AttentionShape& shape) {
  return static_cast<std::size_t>(shape.statistics()) * sizeof(float);
}

/// grad_qkv [tokens, (heads + 2 kv_heads) * head_size], every element written, from grad_o, the forward pass's qkv and its results
/// o and lse. `delta` is scratch of attention_workspace(shape) bytes. Throws what attention_forward does.
template <class Launcher, class T>
void attention_backward(Launcher& launch, Rows<T> grad_qkv, std::type_identity_t<Rows<const T>> grad_o,
                        std::type_identity_t<Rows<const T>> qkv, std::type_identity_t<Rows<const T>> o, const float* lse, float* delta,
                        const AttentionShape& shape) {
  detail::require_attention(shape);
  if (shape.statistics() == 0) return;
  const auto can = [&](auto rows) { return is_vectorizable(rows, shape.tokens(), shape.head_size); };
  const bool vectorised = can(qkv) && can(o) && can(grad_o) && can(grad_qkv);
  using Delta = detail::AttentionDelta<T>;
  launch(Grid{.x = static_cast<unsigned>(divide_up(shape.statistics(), Delta::threads / 32))}, Delta{}, delta, grad_o, o, shape, vectorised);
  const float scale = detail::attention_scale(shape);
  detail::with_head_size(shape.head_size, [&](auto size) {
    using Keys = detail::AttentionBackwardKeys<T, size()>;
    using Queries = detail::AttentionBackwardQueries<T, size()>;
    const auto* const constant = static_cast<const float*>(delta);
    launch(detail::attention_grid(shape, shape.kv_heads, Keys::tile, Keys::shared_bytes), Keys{}, grad_qkv, grad_o, qkv, lse, constant,
           shape, scale, vectorised);
    launch(detail::attention_grid(shape, shape.heads, Queries::tile, Queries::shared_bytes), Queries{}, grad_qkv, grad_o, qkv, lse,
           constant, shape, scale, vectorised);
  });
}

}  // namespace cuda
DROPBP_NAMESPACE_END
