// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The backward pass of attention in BFloat16 on the tensor cores. See attention.hpp.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "dropbp/kernels/cuda/attention_mma_tiles.hpp"
#include "dropbp/kernels/cuda/attention_tiles.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {
namespace detail {

/// One block per 64 or 128 queries of a head: computes grad_q, one tile of keys at a time.
template <unsigned size>
struct AttentionBackwardQueriesMma {
  static constexpr const char* name = "attention_backward_queries<BFloat16>";
  static constexpr unsigned threads = mma_threads;
  static constexpr unsigned min_blocks = mma_blocks;
  static constexpr unsigned strips = size <= 64 ? 2 : 1;
  static constexpr int warp_rows = 16 * strips;
  static constexpr int tile = warp_rows * mma_warps;
  using Own = MmaTile<size, tile>;
  using Stages = MmaStages<size, 32>;
  using Keys = typename Stages::Tile;
  static constexpr std::size_t shared_bytes = 2 * Own::bytes + Stages::bytes;
  static_assert(shared_bytes <= mma_most_shared_bytes);

  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, Rows<BFloat16> grad_qkv, Rows<const BFloat16> grad_o,
                                Rows<const BFloat16> qkv, const float* lse, const float* delta,
                                AttentionShape shape, float scale, bool vectorised) const {
    const Index tiles = divide_up(shape.sequence, tile);
    AttentionTask task = attention_task(ctx, tiles, shape.heads);
    task.tile = tiles - 1 - task.tile;
    const auto length = static_cast<int>(shape.sequence),
               first = static_cast<int>(task.tile) * tile;
    const int end = least(first + tile, length);
    const Index token = task.batch * shape.sequence;
    const auto head_size = static_cast<unsigned>(shape.head_size);
    const Index query_column = task.head * shape.head_size;
    const BFloat16* const keys =
        qkv.row(token) + shape.q_width() + task.head / shape.group() * shape.head_size;

    auto* const q = reinterpret_cast<std::uint32_t*>(ctx.shared());
    std::uint32_t *const d_o = q + Own::words, *const stages = d_o + Own::words;
    const auto copy_keys = [&](std::uint32_t* to, int key) {
      const BFloat16* const from = keys + key * qkv.stride;
      Stages::copy(ctx, to, from, qkv.stride, from + shape.kv_width(), qkv.stride,
                   static_cast<unsigned>(length - key), head_size, vectorised);
    };
    const auto rows = static_cast<unsigned>(end - first);
    copy_tile<Own>(ctx, q, qkv.row(token + first) + query_column, qkv.stride, rows, head_size,
                   vectorised);
    copy_tile<Own>(ctx, d_o, grad_o.row(token + first) + query_column, grad_o.stride, rows,
                   head_size, vectorised);
    ctx.async_commit();
    copy_keys(stages, 0);

    const Lane lane = lane_of(ctx);
    const int warp_row = static_cast<int>(warp_of(ctx)) * warp_rows;
    const float scale2 = scale * log2_of_e;
    float shift[strips][2], row_delta[strips][2];
    DROPBP_UNROLL
    for (unsigned strip = 0; strip < strips; ++strip) DROPBP_UNROLL
    for (unsigned half = 0; half < 2; ++half) {
      const int row = first + warp_row + static_cast<int>(16 * strip + 8 * half + lane.group);
      const Index at = (task.batch * shape.heads + task.head) * shape.sequence + row;
      shift[strip][half] = row < end ? lse[at] * log2_of_e : INFINITY;
      row_delta[strip][half] = row < end ? delta[at] : 0.0f;
    }
    ctx.template async_wait<1>();
    ctx.sync();  // the queries and their gradients have arrived
    const OwnRows<size, strips, true> queries(ctx, q + warp_row * int{Own::stride}),
        gradients(ctx, d_o + warp_row * int{Own::stride});
    float sums[strips][size / 8][4] = {};
    unsigned stage = 0;
    for (int key = 0; key < end; key += Stages::rows, stage ^= 1u) {
      ctx.template async_wait<0>();
      ctx.sync();  // these keys have arrived; the previous ones have been used
      const std::uint32_t* const k = stages + stage * Stages::words;
      if (key + Stages::rows < end)
        copy_keys(stages + (stage ^ 1u) * Stages::words, key + Stages::rows);
      // Row r of the warp sees the keys up to r + ahead of the tile.
      const int ahead = first + warp_row - key;
      if (ahead + warp_rows <= 0) continue;
      float s[strips][Keys::rows / 8][4], ds[strips][Keys::rows / 8][4];
      multiply_rows(ctx, s, queries, k);
      multiply_rows(ctx, ds, gradients, k + Keys::words);
      const bool hides = ahead < Stages::rows - 1;
      DROPBP_UNROLL
      for (unsigned strip = 0; strip < strips; ++strip) DROPBP_UNROLL
      for (unsigned i = 0; i < Keys::rows / 8; ++i) DROPBP_UNROLL
      for (unsigned j = 0; j < 4; ++j) {
        const auto column = static_cast<int>(8 * i + 2 * lane.member + j % 2),
                   row = static_cast<int>(16 * strip + 8 * (j / 2) + lane.group);
        float p = ctx.fast_exp2(std::fma(s[strip][i][j], scale2, -shift[strip][j / 2]));
        if (hides && column > row + ahead) p = 0.0f;
        ds[strip][i][j] = p * (ds[strip][i][j] - row_delta[strip][j / 2]);
      }
      add_product<size>(ctx, sums, ds, k);
    }
    float factors[strips][2];
    DROPBP_UNROLL
    for (unsigned strip = 0; strip < strips; ++strip) factors[strip][0] = factors[strip][1] = scale;
    store_rows<size>(ctx, grad_qkv.row(token + first + warp_row) + query_column, grad_qkv.stride,
                     sums, factors, q + warp_row * int{Own::stride}, end - first - warp_row,
                     head_size, vectorised);
  }
};

/// One block per 64 or 128 keys of a kv head: computes grad_k and grad_v, one tile of queries of
/// one query head at a time.
template <unsigned size>
struct AttentionBackwardKeysMma {
  static constexpr const char* name = "attention_backward_keys<BFloat16>";
  static constexpr unsigned threads = mma_threads;
  static constexpr unsigned min_blocks = mma_blocks;
  static constexpr unsigned strips = size <= 64 ? 2 : 1;
  static constexpr int warp_rows = 16 * strips;
  static constexpr int part = 16;  // queries whose scores a warp holds at a time
  static constexpr int tile = warp_rows * mma_warps;
  using Own = MmaTile<size, tile>;
  using Stages = MmaStages<size, 32>;
  using Queries = typename Stages::Tile;
  // Behind the tiles: lse and delta of the queries, of both halves of the buffer.
  static constexpr std::size_t shared_bytes =
      2 * Own::bytes + Stages::bytes + 4 * Queries::rows * sizeof(float);
  static_assert(shared_bytes <= mma_most_shared_bytes);

  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, Rows<BFloat16> grad_qkv, Rows<const BFloat16> grad_o,
                                Rows<const BFloat16> qkv, const float* lse, const float* delta,
                                AttentionShape shape, float scale, bool vectorised) const {
    const Index tiles = divide_up(shape.sequence, tile);
    const AttentionTask task =
        attention_task(ctx, tiles, shape.kv_heads);  // most queries see the first keys
    const auto length = static_cast<int>(shape.sequence),
               first = static_cast<int>(task.tile) * tile;
    const int rows = least(tile, length - first);
    const Index token = task.batch * shape.sequence;
    const auto head_size = static_cast<unsigned>(shape.head_size);
    const Index key_column = shape.q_width() + task.head * shape.head_size;

    auto* const k = reinterpret_cast<std::uint32_t*>(ctx.shared());
    std::uint32_t *const v = k + Own::words, *const stages = v + Own::words;
    auto* const statistics = reinterpret_cast<float*>(stages + 4 * Queries::words);
    const auto copy_queries = [&](std::uint32_t* to, int head, int query) {
      const Index column = head * shape.head_size;
      Stages::copy(ctx, to, qkv.row(token + query) + column, qkv.stride,
                   grad_o.row(token + query) + column, grad_o.stride,
                   static_cast<unsigned>(length - query), head_size, vectorised);
    };
    // Threads 0 to 31 load lse, the next 32 delta.
    const auto statistic = [&](int head, int query) {
      const int thread = static_cast<int>(ctx.thread()), row = query + thread % Stages::rows;
      const bool is_lse = thread < Stages::rows;
      if (thread >= 2 * Stages::rows || row >= length) return is_lse ? INFINITY : 0.0f;
      const Index at = (task.batch * shape.heads + head) * shape.sequence + row;
      return is_lse ? lse[at] * log2_of_e : delta[at];
    };
    const auto keep = [&](unsigned stage, float value) {
      if (ctx.thread() < 2 * Queries::rows)
        statistics[2 * stage * Queries::rows + ctx.thread()] = value;
    };
    const BFloat16* const keys = qkv.row(token + first) + key_column;
    const auto count = static_cast<unsigned>(rows);
    copy_tile<Own>(ctx, k, keys, qkv.stride, count, head_size, vectorised);
    copy_tile<Own>(ctx, v, keys + shape.kv_width(), qkv.stride, count, head_size, vectorised);
    ctx.async_commit();
    int head = static_cast<int>(task.head * shape.group()), query = first;
    const int last_head = head + static_cast<int>(shape.group());
    copy_queries(stages, head, query);
    keep(0, statistic(head, query));

    const int warp_row = static_cast<int>(warp_of(ctx)) * warp_rows;
    const float scale2 = scale * log2_of_e;
    std::uint32_t* const own_keys = k + warp_row * int{Own::stride};
    std::uint32_t* const own_values = v + warp_row * int{Own::stride};
    ctx.template async_wait<1>();
    ctx.sync();  // the keys and values have arrived
    const OwnRows<size, strips, true> key_rows(ctx, own_keys), value_rows(ctx, own_values);
    float key_sums[strips][size / 8][4] = {}, value_sums[strips][size / 8][4] = {};
    for (unsigned stage = 0; head < last_head; stage ^= 1u) {
      ctx.template async_wait<0>();
      ctx.sync();  // these queries have arrived; the previous ones have been used
      const std::uint32_t* const q = stages + stage * Stages::words;
      const float* const shifts = statistics + 2 * stage * Queries::rows;
      // Query c of the tile sees the warp's rows up to c + ahead.
      const int ahead = query - first - warp_row;
      query += Stages::rows;
      if (query >= length) query = first, ++head;
      float next = 0.0f;
      if (head < last_head) {
        copy_queries(stages + (stage ^ 1u) * Stages::words, head, query);
        next = statistic(head, query);
      }
      DROPBP_NO_UNROLL
      for (int begin = 0; begin < Stages::rows; begin += part) {
        if (ahead + begin + part <= 0) continue;  // earlier than the warp's keys
        float p[strips][part / 8][4], ds[strips][part / 8][4];
        const std::uint32_t* const queries = q + begin * int{Queries::stride};
        const std::uint32_t* const gradients = queries + Queries::words;
        multiply_rows(ctx, p, key_rows, queries);
        multiply_rows(ctx, ds, value_rows, gradients);
        differentiate(ctx, p, ds, shifts + begin, ahead + begin, scale2);
        add_product<size>(ctx, value_sums, p, gradients);
        add_product<size>(ctx, key_sums, ds, queries);
      }
      if (head < last_head) keep(stage ^ 1u, next);
    }
    float scales[strips][2], ones[strips][2];
    DROPBP_UNROLL
    for (unsigned strip = 0; strip < strips; ++strip)
      scales[strip][0] = scales[strip][1] = scale, ones[strip][0] = ones[strip][1] = 1.0f;
    BFloat16* const target = grad_qkv.row(token + first + warp_row) + key_column;
    store_rows<size>(ctx, target, grad_qkv.stride, key_sums, scales, own_keys, rows - warp_row,
                     head_size, vectorised);
    store_rows<size>(ctx, target + shape.kv_width(), grad_qkv.stride, value_sums, ones, own_values,
                     rows - warp_row, head_size, vectorised);
  }

 private:
  // p: from products of keys and queries to weights; ds: from products of values and gradients to
  // gradients of the scores over the scale. `shifts` is lse, Stages::rows further on is delta.
  template <class Context>
  DROPBP_DEVICE static void differentiate(Context ctx, float (&p)[strips][part / 8][4],
                                          float (&ds)[strips][part / 8][4], const float* shifts,
                                          int ahead, float scale2) {
    const Lane lane = lane_of(ctx);
    const bool hides = ahead < warp_rows - 1;
    DROPBP_UNROLL
    for (unsigned i = 0; i < part / 8; ++i) DROPBP_UNROLL
    for (unsigned j = 0; j < 2; ++j) {
      const auto column = static_cast<int>(8 * i + 2 * lane.member + j);
      const float shift = shifts[column], row_delta = shifts[Stages::rows + column];
      DROPBP_UNROLL
      for (unsigned strip = 0; strip < strips; ++strip) DROPBP_UNROLL
      for (unsigned half = 0; half < 2; ++half) {
        const auto row = static_cast<int>(16 * strip + 8 * half + lane.group);
        float& weight = p[strip][i][2 * half + j];
        float& gradient = ds[strip][i][2 * half + j];
        weight = ctx.fast_exp2(std::fma(weight, scale2, -shift));
        if (hides && row > column + ahead) weight = 0.0f;
        gradient = weight * (gradient - row_delta);
      }
    }
  }
};

}  // namespace detail
}  // namespace cuda
DROPBP_NAMESPACE_END
