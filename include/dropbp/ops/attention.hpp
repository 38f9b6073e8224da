// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Causal grouped-query attention in blocks with an online softmax: never a matrix of sequence x
// sequence. Source: Dao et al., "FlashAttention" (NeurIPS 2022); grouped queries: Ainslie et al.
// (arXiv 2305.13245).
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "dropbp/ops/product.hpp"
#include "dropbp/ops/rms_norm.hpp"
#include "dropbp/ops/scratch.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// Tokens are the rows t = b * sequence + position of a matrix.
struct SequenceShape {
  Index batch = 1;                                            ///< sequences
  Index sequence = 1;                                         ///< tokens of each
  Index tokens() const noexcept { return batch * sequence; }  ///< rows
};

/// Query head h uses kv head h / (heads / kv_heads). A fused row holds the q heads, then the k
/// heads, then the v heads.
struct HeadLayout {
  Index heads = 1;                                           ///< query heads
  Index kv_heads = 1;                                        ///< key and value heads; divides heads
  Index head_size = 1;                                       ///< elements of a head
  Index group() const noexcept { return heads / kv_heads; }  ///< query heads that share a kv head
  Index q_width() const noexcept { return heads * head_size; }  ///< elements of all query heads
  /// Elements of all key heads, and of all value heads.
  Index kv_width() const noexcept { return kv_heads * head_size; }
  /// Elements of a fused row.
  Index qkv_width() const noexcept { return q_width() + 2 * kv_width(); }
};

namespace detail {

// Query rows of a block: a multiple of the product's 6-row tile; small, because the block on the
// diagonal is half waste.
inline constexpr Index query_block = 48;
// Keys of a block: 48 x 384 scores, and as many gradients, are 144 KiB of floats and stay in the
// second-level cache.
inline constexpr Index key_block = 384;

// The rows of one sequence and one head inside a buffer of heads.
template <class T>
MatrixView<T> head_rows(MatrixView<T> x, const SequenceShape& shape, Index batch, Index column,
                        Index head_size) {
  return x.rows_from(batch * shape.sequence, shape.sequence).columns_from(column, head_size);
}

// scores[i] = exp(scale * scores[i] - shift) for i < valid, 0 for valid <= i < count. Returns the
// sum.
template <class T>
T exp_row(T* scores, Index valid, Index count, T scale, T shift) noexcept {
  Vector<T> sum{};
  for_each_vector<T>(valid, [&](Index i, auto piece) {
    auto p = exp<T>(load_piece(scores + i, piece, T(0)) * scale - shift);
    store_piece<T>(scores + i, p, piece);
    if constexpr (std::is_same_v<decltype(piece), Index>) p = load_some<T>(scores + i, piece, T(0));
    sum += p;
  });
  std::fill(scores + (std::max)(valid, Index(0)), scores + count, T(0));
  return static_cast<T>(sum_of_lanes<T>(sum));
}

template <class T>
T max_of_row(const T* row, Index count) noexcept {
  constexpr T lowest = -std::numeric_limits<T>::infinity();
  Vector<T> largest = Vector<T>{} + lowest;
  for_each_vector<T>(count, [&](Index i, auto piece) {
    const auto v = load_piece(row + i, piece, lowest);
    largest = v > largest ? v : largest;
  });
  return max_of_lanes<T>(largest);
}

// How many keys of a block that starts at key k0 the query at `position` may see.
inline Index visible_keys(Index position, Index k0, Index count) {
  return std::clamp(position - k0 + 1, Index(0), count);
}

template <class T>
void attend_query_block(MatrixView<T> o, T* lse, MatrixView<const T> q, MatrixView<const T> k,
                        MatrixView<const T> v, Index first) {
  const Index rows = q.rows, end = first + rows;
  const T scale = static_cast<T>(1.0 / std::sqrt(static_cast<double>(q.columns)));
  T* const scores = scratch<T>(Scratch::attention, query_block * key_block);
  T largest[query_block], sum[query_block];
  std::fill_n(largest, rows, -std::numeric_limits<T>::infinity());
  std::fill_n(sum, rows, T(0));
  for (Index k0 = 0; k0 < end; k0 += key_block) {
    const Index count = (std::min)(key_block, end - k0);
    const MatrixView<T> block(scores, rows, count);
    gemm_nt(block, q, k.rows_from(k0, count));
    for (Index i = 0; i < rows; ++i) {
      const Index valid = visible_keys(first + i, k0, count);
      const T before = largest[i];
      if (valid > 0) largest[i] = (std::max)(before, scale * max_of_row(block.row(i), valid));
      const T block_sum = exp_row(block.row(i), valid, count, scale, largest[i]);
      const T shrink = k0 == 0 ? T(0) : std::exp(before - largest[i]);
      sum[i] = sum[i] * shrink + block_sum;
      if (k0 > 0 && shrink != T(1))
        for (Index j = 0; j < o.columns; ++j) o.row(i)[j] *= shrink;
    }
    gemm_nn(o, block, v.rows_from(k0, count), k0 == 0 ? Accumulate::overwrite : Accumulate::add);
  }
  for (Index i = 0; i < rows; ++i) {
    const T inverse = T(1) / sum[i];
    for (Index j = 0; j < o.columns; ++j) o.row(i)[j] *= inverse;
    lse[i] = largest[i] + std::log(sum[i]);
  }
}

// Adds one query block's share: dq of its rows is written, dk and dv of the keys up to its end are
// written or added to.
template <class T>
void attend_query_block_backward(MatrixView<T> dq, MatrixView<T> dk, MatrixView<T> dv,
                                 Accumulate key_mode, MatrixView<const T> d_o,
                                 MatrixView<const T> q, MatrixView<const T> k,
                                 MatrixView<const T> v, MatrixView<const T> o, const T* lse,
                                 Index first) {
  const Index rows = q.rows, end = first + rows;
  const T scale = static_cast<T>(1.0 / std::sqrt(static_cast<double>(q.columns)));
  T* const buffer = scratch<T>(Scratch::attention, 2 * query_block * key_block);
  T delta[query_block];
  for (Index i = 0; i < rows; ++i)
    delta[i] = static_cast<T>(row_sum<T>(o.columns, [&](Index j, auto piece) {
      return load_piece(o.row(i) + j, piece, T(0)) * load_piece(d_o.row(i) + j, piece, T(0));
    }));
  for (Index k0 = 0; k0 < end; k0 += key_block) {
    const Index count = (std::min)(key_block, end - k0);
    const MatrixView<T> p(buffer, rows, count), ds(buffer + query_block * key_block, rows, count);
    gemm_nt(p, q, k.rows_from(k0, count));
    gemm_nt(ds, d_o, v.rows_from(k0, count));
    for (Index i = 0; i < rows; ++i) {
      exp_row(p.row(i), visible_keys(first + i, k0, count), count, scale, lse[i]);
      for (Index j = 0; j < count; ++j)
        ds.row(i)[j] = p.row(i)[j] * ((ds.row(i)[j] - delta[i]) * scale);
    }
    gemm_tn(dv.rows_from(k0, count), p, d_o, key_mode);
    gemm_tn(dk.rows_from(k0, count), ds, q, key_mode);
    gemm_nn(dq, ds, k.rows_from(k0, count), k0 == 0 ? Accumulate::overwrite : Accumulate::add);
  }
}

}  // namespace detail

/// o [tokens, heads * head_size] = softmax(q k^T / sqrt(head_size), causal) v of each head and
/// sequence, with q and k already rotated in qkv [tokens, qkv_width]; lse [batch * heads *
/// sequence] = log of the softmax's denominators.
template <class T>
void attention_forward(MatrixView<T> o, T* lse, std::type_identity_t<MatrixView<const T>> qkv,
                       const HeadLayout& layout, const SequenceShape& shape) {
  const Index size = layout.head_size;
  const Index blocks = (shape.sequence + detail::query_block - 1) / detail::query_block;
  // The longest block of each head first: the last tasks are then the short ones.
  parallel_tasks(shape.batch * layout.heads * blocks, detail::query_block * shape.sequence * size,
                 [&](Index task) {
                   const Index head = task / blocks % layout.heads,
                               batch = task / blocks / layout.heads;
                   const Index first = (blocks - 1 - task % blocks) * detail::query_block;
                   const Index rows = (std::min)(detail::query_block, shape.sequence - first);
                   const Index kv = layout.q_width() + head / layout.group() * size;
                   const auto part = [&](Index column) {
                     return detail::head_rows(qkv, shape, batch, column, size);
                   };
                   detail::attend_query_block<T>(
                       detail::head_rows(o, shape, batch, head * size, size).rows_from(first, rows),
                       lse + (batch * layout.heads + head) * shape.sequence + first,
                       part(head * size).rows_from(first, rows), part(kv),
                       part(kv + layout.kv_width()), first);
                 });
}

/// grad_qkv [tokens, qkv_width], every element written, from grad_o, the forward pass's inputs and
/// its results o and lse.
template <class T>
void attention_backward(MatrixView<T> grad_qkv, std::type_identity_t<MatrixView<const T>> grad_o,
                        std::type_identity_t<MatrixView<const T>> qkv,
                        std::type_identity_t<MatrixView<const T>> o, const T* lse,
                        const HeadLayout& layout, const SequenceShape& shape) {
  const Index size = layout.head_size;
  const Index blocks = (shape.sequence + detail::query_block - 1) / detail::query_block;
  parallel_tasks(
      shape.batch * layout.kv_heads, shape.sequence * shape.sequence * size, [&](Index task) {
        const Index kv_head = task % layout.kv_heads, batch = task / layout.kv_heads;
        const auto part = [&](auto x, Index column) {
          return detail::head_rows(x, shape, batch, column, size);
        };
        const Index k = layout.q_width() + kv_head * size, v = k + layout.kv_width();
        for (Index head = kv_head * layout.group(); head < (kv_head + 1) * layout.group(); ++head)
          for (Index block = blocks - 1; block >= 0; --block) {
            const Index first = block * detail::query_block,
                        rows = (std::min)(detail::query_block, shape.sequence - first);
            // The last query block sees every key: done first, it writes dk and dv whole, and
            // nobody sets them to zero.
            const bool writes = block == blocks - 1 && head == kv_head * layout.group();
            detail::attend_query_block_backward<T>(
                part(grad_qkv, head * size).rows_from(first, rows), part(grad_qkv, k),
                part(grad_qkv, v), writes ? Accumulate::overwrite : Accumulate::add,
                part(grad_o, head * size).rows_from(first, rows),
                part(qkv, head * size).rows_from(first, rows), part(qkv, k), part(qkv, v),
                part(o, head * size).rows_from(first, rows),
                lse + (batch * layout.heads + head) * shape.sequence + first, first);
          }
      });
}

}  // namespace ops
DROPBP_NAMESPACE_END
