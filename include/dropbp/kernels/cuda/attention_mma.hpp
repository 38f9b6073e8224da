// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Attention in BFloat16 on the tensor cores. See attention.hpp.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "dropbp/kernels/cuda/attention_mma_tiles.hpp"
#include "dropbp/kernels/cuda/attention_tiles.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {
namespace detail {

/// One block per 128 queries of a head.
template <unsigned size>
struct AttentionForwardMma {
  static constexpr const char* name = "attention_forward<BFloat16>";
  static constexpr unsigned threads = mma_threads;
  static constexpr unsigned min_blocks = mma_blocks;
  static constexpr unsigned strips = 2;
  static constexpr int warp_rows = 16 * strips;
  static constexpr bool resident = size <= 64;
  static constexpr int tile = warp_rows * mma_warps;
  using Queries = MmaTile<size, tile>;
  using Stages = MmaStages<size, size <= 64 ? 64 : 32>;
  using Keys = typename Stages::Tile;
  static constexpr std::size_t shared_bytes = Queries::bytes + Stages::bytes;
  static_assert(shared_bytes <= mma_most_shared_bytes);

  // One long function, because all steps share the registers of a thread.
  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, Rows<BFloat16> o, float* lse, Rows<const BFloat16> qkv,
                                AttentionShape shape, float scale, bool vectorised) const {
    const Index tiles = divide_up(shape.sequence, tile);
    AttentionTask task = attention_task(ctx, tiles, shape.heads);
    task.tile =
        tiles - 1 - task.tile;  // the longest tiles first: short ones at the end balance the load
    const auto length = static_cast<int>(shape.sequence),
               first = static_cast<int>(task.tile) * tile;
    const int end = least(first + tile, length);
    const auto head_size = static_cast<unsigned>(shape.head_size);
    const BFloat16* const sequence = qkv.row(task.batch * shape.sequence);
    const BFloat16* const keys =
        sequence + shape.q_width() + task.head / shape.group() * shape.head_size;

    auto* const q = reinterpret_cast<std::uint32_t*>(ctx.shared());
    std::uint32_t* const stages = q + Queries::words;
    const auto copy_keys = [&](std::uint32_t* to, int key) {
      const BFloat16* const from = keys + key * qkv.stride;
      Stages::copy(ctx, to, from, qkv.stride, from + shape.kv_width(), qkv.stride,
                   static_cast<unsigned>(length - key), head_size, vectorised);
    };
    copy_tile<Queries>(ctx, q, sequence + first * qkv.stride + task.head * shape.head_size,
                       qkv.stride, static_cast<unsigned>(end - first), head_size, vectorised);
    ctx.async_commit();
    copy_keys(stages, 0);

    const Lane lane = lane_of(ctx);
    const int warp_row = static_cast<int>(warp_of(ctx)) * warp_rows;
    std::uint32_t* const own = q + warp_row * int{Queries::stride};
    ctx.template async_wait<1>();
    ctx.sync();  // the queries have arrived
    const OwnRows<size, strips, resident> queries(ctx, own);
    const float scale2 = scale * log2_of_e;
    float sums[strips][size / 8][4] = {};
    float largest[strips][2], total[strips][2] = {};
    DROPBP_UNROLL
    for (unsigned strip = 0; strip < strips; ++strip)
      largest[strip][0] = largest[strip][1] = -INFINITY;
    unsigned stage = 0;
    for (int key = 0; key < end; key += Stages::rows, stage ^= 1u) {
      ctx.template async_wait<0>();
      ctx.sync();  // these keys have arrived; the previous ones have been used
      const std::uint32_t* const k = stages + stage * Stages::words;
      if (key + Stages::rows < end)
        copy_keys(stages + (stage ^ 1u) * Stages::words, key + Stages::rows);
      float s[strips][Stages::rows / 8][4];
      multiply_rows(ctx, s, queries, k);
      // Row r of the warp sees the keys up to r + ahead of the tile.
      const int ahead = first + warp_row - key;
      if (ahead < Stages::rows - 1) hide_later_keys(s, lane, ahead);
      DROPBP_UNROLL
      for (unsigned strip = 0; strip < strips; ++strip) DROPBP_UNROLL
      for (unsigned half = 0; half < 2; ++half)
        add_weights(ctx, sums[strip], largest[strip][half], total[strip][half], s[strip], half,
                    scale2);
      add_product<size>(ctx, sums, s, k + Keys::words);
    }

    float factors[strips][2];
    DROPBP_UNROLL
    for (unsigned strip = 0; strip < strips; ++strip) DROPBP_UNROLL
    for (unsigned half = 0; half < 2; ++half) {
      float sum = total[strip][half];
      DROPBP_UNROLL
      for (unsigned mask = 1; mask < 4; mask *= 2) sum += ctx.shuffle_xor(sum, mask);
      factors[strip][half] = 1.0f / sum;
      const int row = first + warp_row + static_cast<int>(16 * strip + 8 * half + lane.group);
      if (lane.member == 0 && row < end)
        lse[(task.batch * shape.heads + task.head) * shape.sequence + row] =
            largest[strip][half] * (1.0f / log2_of_e) + std::log(sum);
    }
    store_rows<size>(
        ctx, o.row(task.batch * shape.sequence + first + warp_row) + task.head * shape.head_size,
        o.stride, sums, factors, own, end - first - warp_row, head_size, vectorised);
  }

 private:
  DROPBP_DEVICE static void hide_later_keys(float (&s)[strips][Stages::rows / 8][4], Lane lane,
                                            int ahead) {
    DROPBP_UNROLL
    for (unsigned strip = 0; strip < strips; ++strip) DROPBP_UNROLL
    for (unsigned i = 0; i < Stages::rows / 8; ++i) DROPBP_UNROLL
    for (unsigned j = 0; j < 4; ++j) {
      const auto key = static_cast<int>(8 * i + 2 * lane.member + j % 2),
                 row = static_cast<int>(16 * strip + 8 * (j / 2) + lane.group);
      if (key > row + ahead) s[strip][i][j] = -INFINITY;
    }
  }

  // The online softmax of a row: its scores become weights, relative to the largest score so far.
  template <class Context>
  DROPBP_DEVICE static void add_weights(Context ctx, float (&sums)[size / 8][4], float& largest,
                                        float& total, float (&s)[Stages::rows / 8][4],
                                        unsigned half, float scale2) {
    float most = s[0][2 * half];
    DROPBP_UNROLL
    for (unsigned i = 0; i < Stages::rows / 8; ++i) DROPBP_UNROLL
    for (unsigned j = 0; j < 2; ++j) most = std::fmax(most, s[i][2 * half + j]);
    DROPBP_UNROLL
    for (unsigned mask = 1; mask < 4; mask *= 2)
      most = std::fmax(most, ctx.shuffle_xor(most, mask));
    most = std::fmax(largest, most * scale2);
    const float shrink = ctx.fast_exp2(largest - most);
    largest = most;
    float sum = 0.0f;
    DROPBP_UNROLL
    for (unsigned i = 0; i < Stages::rows / 8; ++i) DROPBP_UNROLL
    for (unsigned j = 0; j < 2; ++j) {
      float& value = s[i][2 * half + j];
      value = ctx.fast_exp2(std::fma(value, scale2, -most));
      sum += value;
    }
    total = total * shrink + sum;
    DROPBP_UNROLL
    for (unsigned i = 0; i < size / 8; ++i)
      sums[i][2 * half] *= shrink, sums[i][2 * half + 1] *= shrink;
  }
};

}  // namespace detail
}  // namespace cuda
DROPBP_NAMESPACE_END
