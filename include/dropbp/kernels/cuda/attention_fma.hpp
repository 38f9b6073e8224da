// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Attention in float and Half by float multiply-adds. Tiles of floats are in shared memory; a block
// has 16 x 16 threads. See attention.hpp.
#pragma once

#include <cmath>
#include <cstddef>
#include <type_traits>

#include "dropbp/kernels/cuda/attention_tiles.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {
namespace detail {

// Thread (y, x) owns rows y + 16 i of a tile, columns x + 16 j of the scores, and elements 2 x + 32
// j and 2 x + 32 j + 1 of a head.

template <unsigned size, unsigned tile_rows>
struct FmaTile {
  static constexpr unsigned rows = tile_rows;   ///< tokens
  static constexpr unsigned threads = 256;      ///< per block
  static constexpr unsigned own = rows / 16;    ///< rows per thread
  static constexpr unsigned pairs = size / 32;  ///< pairs of columns per thread
  static constexpr unsigned stride = size + 4;  ///< floats per row; + 4 spreads rows over the banks
  static constexpr unsigned score_stride = rows + 4;                   ///< floats per row of scores
  static constexpr std::size_t bytes = sizeof(float) * rows * stride;  ///< bytes of a tile
  static constexpr std::size_t score_bytes =
      sizeof(float) * rows * score_stride;  ///< bytes of a tile's scores
};

// Like copy_tile, but converts to float, and the copy is synchronous.
template <class Tile, unsigned size, class Context, class T>
DROPBP_DEVICE void widen_tile(Context ctx, float* to, const T* from, Index from_stride, Index rows,
                              Index columns, bool vectorised) {
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
          if (column + j < columns)
            values.values[j] = to_float(ctx.template load<T, 1>(source + j).values[0]);
      }
    }
    ctx.store_shared(to + row * Tile::stride + column, values);
  }
}

// products[i][j] = the dot product of row i of x and row j of y, for the rows of a thread.
template <class Tile, unsigned size, class Context>
DROPBP_DEVICE void multiply_rows_fma(Context ctx, float (&products)[Tile::own][Tile::own],
                                     const float* x, const float* y) {
  const unsigned ty = ctx.thread() / 16, tx = ctx.thread() % 16;
  DROPBP_UNROLL
  for (unsigned i = 0; i < Tile::own; ++i) DROPBP_UNROLL
  for (unsigned j = 0; j < Tile::own; ++j) products[i][j] = 0.0f;
  // Not unrolled: more columns at a time need more registers than a thread has with two blocks per
  // multiprocessor.
  DROPBP_NO_UNROLL
  for (unsigned first = 0; first < size; first += 16) {
    DROPBP_UNROLL
    for (unsigned column = first; column < first + 16; column += 4) {
      Pack<float, 4> a[Tile::own];
      DROPBP_UNROLL
      for (unsigned i = 0; i < Tile::own; ++i)
        a[i] = ctx.template load_shared<float, 4>(x + (ty + 16 * i) * Tile::stride + column);
      DROPBP_UNROLL
      for (unsigned j = 0; j < Tile::own; ++j) {
        const Pack<float, 4> b =
            ctx.template load_shared<float, 4>(y + (tx + 16 * j) * Tile::stride + column);
        DROPBP_UNROLL
        for (unsigned i = 0; i < Tile::own; ++i) DROPBP_UNROLL
        for (unsigned e = 0; e < 4; ++e) products[i][j] += a[i].values[e] * b.values[e];
      }
    }
  }
}

// sums += scores times the rows of a tile; both are in shared memory.
template <class Tile, class Context>
DROPBP_DEVICE void add_product_fma(Context ctx, float (&sums)[Tile::own][Tile::pairs][2],
                                   const float* scores, const float* tile) {
  const unsigned ty = ctx.thread() / 16, tx = ctx.thread() % 16;
  DROPBP_NO_UNROLL
  for (unsigned row = 0; row < Tile::rows; row += 4) {
    Pack<float, 4> a[Tile::own];
    DROPBP_UNROLL
    for (unsigned i = 0; i < Tile::own; ++i)
      a[i] = ctx.template load_shared<float, 4>(scores + (ty + 16 * i) * Tile::score_stride + row);
    DROPBP_UNROLL
    for (unsigned e = 0; e < 4; ++e) DROPBP_UNROLL
    for (unsigned j = 0; j < Tile::pairs; ++j) {
      const Pack<float, 2> b =
          ctx.template load_shared<float, 2>(tile + (row + e) * Tile::stride + 2 * tx + 32 * j);
      DROPBP_UNROLL
      for (unsigned i = 0; i < Tile::own; ++i) {
        sums[i][j][0] += a[i].values[e] * b.values[0];
        sums[i][j][1] += a[i].values[e] * b.values[1];
      }
    }
  }
}

template <class Tile, class Context, class T>
DROPBP_DEVICE void store_rows_fma(Context ctx, T* to, Index to_stride,
                                  const float (&sums)[Tile::own][Tile::pairs][2],
                                  const float (&factors)[Tile::own], Index rows, Index columns,
                                  bool vectorised) {
  const unsigned ty = ctx.thread() / 16, tx = ctx.thread() % 16;
  DROPBP_UNROLL
  for (unsigned i = 0; i < Tile::own; ++i) {
    const unsigned row = ty + 16 * i;
    if (row >= rows) continue;
    DROPBP_UNROLL
    for (unsigned j = 0; j < Tile::pairs; ++j) {
      const unsigned column = 2 * tx + 32 * j;
      const Pack<T, 2> values = {
          {from_float<T>(sums[i][j][0] * factors[i]), from_float<T>(sums[i][j][1] * factors[i])}};
      T* const target = to + row * to_stride + column;
      if (vectorised) {
        if (column < columns) ctx.store(target, values);
      } else {  // ctx.store would spill registers here (nvcc 13, sm_100)
        if (column < columns) target[0] = values.values[0];
        if (column + 1 < columns) target[1] = values.values[1];
      }
    }
  }
}

/// One block per 64 queries of a head.
template <class T, unsigned size>
struct AttentionForwardFma {
  using Tile = FmaTile<size, 64>;
  static constexpr const char* name = "attention_forward";
  static constexpr unsigned threads = Tile::threads;
  static constexpr unsigned min_blocks = size <= 64 ? 2 : 1;
  static constexpr unsigned tile = Tile::rows;
  static constexpr std::size_t shared_bytes = 2 * Tile::bytes + Tile::score_bytes;

  // One long function, because all steps share the registers of a thread.
  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, Rows<T> o, float* lse, Rows<const T> qkv,
                                AttentionShape shape, float scale, bool vectorised) const {
    const Index tiles = divide_up(shape.sequence, tile);
    AttentionTask task = attention_task(ctx, tiles, shape.heads);
    task.tile = tiles - 1 - task.tile;
    const Index first = task.tile * tile, rows = least(tile, shape.sequence - first),
                token = task.batch * shape.sequence;
    const T* const keys =
        qkv.row(token) + shape.q_width() + task.head / shape.group() * shape.head_size;
    const unsigned ty = ctx.thread() / 16, tx = ctx.thread() % 16;
    auto* const q = reinterpret_cast<float*>(ctx.shared());
    float *const kv = q + Tile::rows * Tile::stride, *const scores = kv + Tile::rows * Tile::stride;
    widen_tile<Tile, size>(ctx, q, qkv.row(token + first) + task.head * shape.head_size, qkv.stride,
                           rows, shape.head_size, vectorised);

    const float scale2 = scale * log2_of_e;
    float sums[Tile::own][Tile::pairs][2] = {}, largest[Tile::own], total[Tile::own] = {};
    DROPBP_UNROLL
    for (unsigned i = 0; i < Tile::own; ++i) largest[i] = -INFINITY;
    for (Index block = 0; block <= task.tile; ++block) {
      const Index key = block * tile, count = least(tile, shape.sequence - key);
      if (block > 0) ctx.sync();  // all threads have used the previous values
      widen_tile<Tile, size>(ctx, kv, keys + key * qkv.stride, qkv.stride, count, shape.head_size,
                             vectorised);
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
      ctx.sync();  // all threads have used the keys and written the scores
      widen_tile<Tile, size>(ctx, kv, keys + shape.kv_width() + key * qkv.stride, qkv.stride, count,
                             shape.head_size, vectorised);
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
        lse[(task.batch * shape.heads + task.head) * shape.sequence + first + row] =
            largest[i] / log2_of_e + std::log(total[i]);
    }
    store_rows_fma<Tile>(ctx, o.row(token + first) + task.head * shape.head_size, o.stride, sums,
                         factors, rows, shape.head_size, vectorised);
  }
};

/// One block per 32 queries of a head: computes grad_q, one tile of keys at a time.
template <class T, unsigned size>
struct AttentionBackwardQueriesFma {
  using Tile = FmaTile<size, 32>;
  static constexpr const char* name = "attention_backward_queries";
  static constexpr unsigned threads = Tile::threads;
  static constexpr unsigned min_blocks = 2;
  static constexpr unsigned tile = Tile::rows;
  static constexpr std::size_t shared_bytes = 4 * Tile::bytes + Tile::score_bytes;

  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, Rows<T> grad_qkv, Rows<const T> grad_o,
                                Rows<const T> qkv, const float* lse, const float* delta,
                                AttentionShape shape, float scale, bool vectorised) const {
    const Index tiles = divide_up(shape.sequence, tile);
    AttentionTask task = attention_task(ctx, tiles, shape.heads);
    task.tile = tiles - 1 - task.tile;
    const Index first = task.tile * tile, rows = least(tile, shape.sequence - first),
                token = task.batch * shape.sequence;
    const Index query_column = task.head * shape.head_size;
    const T* const keys =
        qkv.row(token) + shape.q_width() + task.head / shape.group() * shape.head_size;
    const unsigned ty = ctx.thread() / 16, tx = ctx.thread() % 16;
    constexpr unsigned floats = Tile::rows * Tile::stride;
    auto* const q = reinterpret_cast<float*>(ctx.shared());
    float *const d_o = q + floats, *const k = d_o + floats, *const v = k + floats,
                 *const scores = v + floats;
    widen_tile<Tile, size>(ctx, q, qkv.row(token + first) + query_column, qkv.stride, rows,
                           shape.head_size, vectorised);
    widen_tile<Tile, size>(ctx, d_o, grad_o.row(token + first) + query_column, grad_o.stride, rows,
                           shape.head_size, vectorised);

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
      widen_tile<Tile, size>(ctx, k, keys + key * qkv.stride, qkv.stride, count, shape.head_size,
                             vectorised);
      widen_tile<Tile, size>(ctx, v, keys + shape.kv_width() + key * qkv.stride, qkv.stride, count,
                             shape.head_size, vectorised);
      ctx.sync();
      float s[Tile::own][Tile::own], ds[Tile::own][Tile::own];
      multiply_rows_fma<Tile, size>(ctx, s, q, k);
      multiply_rows_fma<Tile, size>(ctx, ds, d_o, v);
      DROPBP_UNROLL
      for (unsigned i = 0; i < Tile::own; ++i) DROPBP_UNROLL
      for (unsigned j = 0; j < Tile::own; ++j) {
        const bool visible = block < task.tile || tx + 16 * j <= ty + 16 * i;
        const float p = visible ? std::exp2(s[i][j] * scale2 - shift[i]) : 0.0f;
        scores[(ty + 16 * i) * Tile::score_stride + tx + 16 * j] =
            p * (ds[i][j] - row_delta[i]) * scale;
      }
      ctx.sync();
      add_product_fma<Tile>(ctx, sums, scores, k);
    }
    float factors[Tile::own];
    DROPBP_UNROLL
    for (unsigned i = 0; i < Tile::own; ++i) factors[i] = 1.0f;
    store_rows_fma<Tile>(ctx, grad_qkv.row(token + first) + query_column, grad_qkv.stride, sums,
                         factors, rows, shape.head_size, vectorised);
  }
};

/// One block per 32 keys of a kv head: computes grad_k and grad_v, one query head and one tile of
/// queries at a time.
template <class T, unsigned size>
struct AttentionBackwardKeysFma {
  using Tile = FmaTile<size, 32>;
  static constexpr const char* name = "attention_backward_keys";
  static constexpr unsigned threads = Tile::threads;
  static constexpr unsigned min_blocks = size <= 64 ? 2 : 1;
  static constexpr unsigned tile = Tile::rows;
  static constexpr std::size_t shared_bytes =
      4 * Tile::bytes + 2 * Tile::score_bytes + 2 * tile * sizeof(float);

  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, Rows<T> grad_qkv, Rows<const T> grad_o,
                                Rows<const T> qkv, const float* lse, const float* delta,
                                AttentionShape shape, float scale, bool vectorised) const {
    const Index tiles = divide_up(shape.sequence, tile);
    const AttentionTask task = attention_task(ctx, tiles, shape.kv_heads);
    const Index first = task.tile * tile, rows = least(tile, shape.sequence - first),
                token = task.batch * shape.sequence;
    const Index key_column = shape.q_width() + task.head * shape.head_size;
    const unsigned ty = ctx.thread() / 16, tx = ctx.thread() % 16;
    constexpr unsigned floats = Tile::rows * Tile::stride,
                       score_floats = Tile::rows * Tile::score_stride;
    auto* const k = reinterpret_cast<float*>(ctx.shared());
    float *const v = k + floats, *const q = v + floats, *const d_o = q + floats;
    float *const scores = d_o + floats, *const d_scores = scores + score_floats,
                 *const shifts = d_scores + score_floats;
    float* const deltas = shifts + tile;
    const T* const keys = qkv.row(token + first) + key_column;
    widen_tile<Tile, size>(ctx, k, keys, qkv.stride, rows, shape.head_size, vectorised);
    widen_tile<Tile, size>(ctx, v, keys + shape.kv_width(), qkv.stride, rows, shape.head_size,
                           vectorised);

    const float scale2 = scale * log2_of_e;
    float key_sums[Tile::own][Tile::pairs][2] = {}, value_sums[Tile::own][Tile::pairs][2] = {};
    for (Index n = 0; n < shape.group() * (tiles - task.tile); ++n) {
      const Index head = task.head * shape.group() + n / (tiles - task.tile),
                  block = task.tile + n % (tiles - task.tile);
      const Index query = block * tile, count = least(tile, shape.sequence - query);
      if (n > 0) ctx.sync();
      widen_tile<Tile, size>(ctx, q, qkv.row(token + query) + head * shape.head_size, qkv.stride,
                             count, shape.head_size, vectorised);
      widen_tile<Tile, size>(ctx, d_o, grad_o.row(token + query) + head * shape.head_size,
                             grad_o.stride, count, shape.head_size, vectorised);
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
      for (unsigned i = 0; i < Tile::own; ++i) DROPBP_UNROLL
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
    store_rows_fma<Tile>(ctx, target, grad_qkv.stride, key_sums, factors, rows, shape.head_size,
                         vectorised);
    store_rows_fma<Tile>(ctx, target + shape.kv_width(), grad_qkv.stride, value_sums, factors, rows,
                         shape.head_size, vectorised);
  }
};

}  // namespace detail
}  // namespace cuda
DROPBP_NAMESPACE_END
