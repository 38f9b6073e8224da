// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Attention in BFloat16 on the tensor cores. Tiles of 64 tokens are in shared memory; each warp
// computes 16 of the tokens. See attention.hpp.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "dropbp/kernels/cuda/attention_mma_tiles.hpp"
#include "dropbp/kernels/cuda/attention_tiles.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {
namespace detail {

// Blocks of a multiprocessor. With three, size 96 spills registers (nvcc 13, sm_90).
template <unsigned size>
inline constexpr unsigned mma_blocks = size > 96 ? 3 : 2;

/// One block per 64 queries of a head.
template <unsigned size>
struct AttentionForwardMma {
  using Tile = MmaTile<size>;
  static constexpr const char* name = "attention_forward<BFloat16>";
  static constexpr unsigned threads = Tile::threads;
  static constexpr unsigned min_blocks = mma_blocks<size>;
  static constexpr unsigned tile = Tile::rows;
  static constexpr std::size_t shared_bytes = 3 * Tile::bytes;

  // One long function, because all steps share the registers of a thread.
  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, Rows<BFloat16> o, float* lse, Rows<const BFloat16> qkv,
                                AttentionShape shape, float scale, bool vectorised) const {
    const Index tiles = divide_up(shape.sequence, tile);
    AttentionTask task = attention_task(ctx, tiles, shape.heads);
    task.tile =
        tiles - 1 - task.tile;  // the longest tiles first: short ones at the end balance the load
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
      ctx.sync();  // the keys have arrived; the previous values have been used
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
      ctx.sync();  // the values have arrived
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

// Number of rows whose scores a warp holds at a time in the backward pass.
inline constexpr unsigned mma_chunk = 32;

/// One block per 64 queries of a head: computes grad_q, one tile of keys at a time.
template <unsigned size>
struct AttentionBackwardQueriesMma {
  using Tile = MmaTile<size>;
  static constexpr const char* name = "attention_backward_queries<BFloat16>";
  static constexpr unsigned threads = Tile::threads;
  static constexpr unsigned min_blocks = mma_blocks<size>;
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
      if (block > 0) ctx.sync();  // the previous tiles have been used
      const Index key = block * tile, count = least(tile, shape.sequence - key);
      copy_tile<size>(ctx, k, keys + key * qkv.stride, qkv.stride, count, shape.head_size,
                      vectorised);
      copy_tile<size>(ctx, v, values + key * qkv.stride, qkv.stride, count, shape.head_size,
                      vectorised);
      ctx.async_commit();
      ctx.template async_wait<0>();
      ctx.sync();
      // Not unrolled: the scores of one chunk at a time fill the registers.
      for (unsigned chunk = 0; chunk < tile; chunk += mma_chunk) {
        if (block == task.tile && chunk > warp_row + 15) break;  // later than the warp's queries
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

/// One block per 64 keys of a kv head: computes grad_k and grad_v, one query head and one tile of
/// queries at a time.
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
        attention_task(ctx, tiles, shape.kv_heads);  // most queries see the first keys
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
      if (i > 0) ctx.sync();  // the previous tiles have been used
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
          continue;  // earlier than the warp's keys
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
