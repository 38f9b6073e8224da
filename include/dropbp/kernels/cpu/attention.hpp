// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Causal grouped-query attention on the CPU, in blocks with an online softmax. See
// ops/attention.hpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <limits>

#include "dropbp/kernels/cpu/elementwise.hpp"
#include "dropbp/kernels/cpu/gemm.hpp"
#include "dropbp/kernels/cpu/parallel.hpp"
#include "dropbp/kernels/cpu/scratch.hpp"
#include "dropbp/kernels/cpu/softcap.hpp"
#include "dropbp/kernels/cpu/softmax.hpp"
#include "dropbp/kernels/kernels.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {
namespace detail {

// Query rows of a block: a multiple of the product's 6-row tile. With more rows, fewer packings of
// keys and values, but half of the block on the diagonal is masked: on AMD Zen 4, heads of 64, the
// forward pass has 45 GFLOP/s with 48 rows, 55 with 96 and 49 with 192 at 256 tokens, and 72, 74
// and 74 at 4,096.
inline constexpr Index query_block = 96;
// Keys of a block: 96 x 384 scores and as many gradients take 288 KiB in float, which fits into the
// second-level cache.
inline constexpr Index key_block = 384;

// The rows of one sequence and the columns of one head in a buffer of heads.
template <class T>
MatrixView<T> head_rows(MatrixView<T> x, const SequenceShape& shape, Index batch, Index column,
                        Index head_size) {
  return x.rows_from(batch * shape.sequence, shape.sequence).columns_from(column, head_size);
}

// The keys that the queries of one block see, and the cap of their scores. Query i sees the keys
// [first[i], last + i].
struct Visible {
  Index first[query_block];
  Index last;      // of query 0: its own position
  Index begin;     // the least of `first`
  double softcap;  // of the scores; 0: none

  // Of query i, among `count` keys from k0 on: the part [from, to) of these keys. Empty parts have
  // from == to.
  struct Part {
    Index from, to;
  };
  Part part(Index i, Index k0, Index count) const noexcept {
    const Index to = std::clamp(last + i + 1 - k0, Index(0), count);
    return {std::clamp(first[i] - k0, Index(0), to), to};
  }
};

inline Visible visible_to(const HeadLayout& layout, const SequenceShape& shape, Index batch,
                          Index position, Index rows) noexcept {
  Visible visible{.first = {}, .last = position, .begin = position, .softcap = layout.softcap};
  for (Index i = 0; i < rows; ++i) {
    const auto row = static_cast<std::size_t>(batch * shape.sequence + position + i);
    const Index sample = shape.sample_begin.empty() ? 0 : Index{shape.sample_begin[row]};
    const Index window = layout.window == 0 ? 0 : position + i + 1 - layout.window;
    visible.first[i] = (std::max)(sample, window);
    visible.begin = (std::min)(visible.begin, visible.first[i]);
  }
  return visible;
}

// As exp_row of the visible part of a row of `count` scores; all others become 0.
template <class T>
T exp_part(T* scores, Visible::Part part, Index count, T scale, T shift) noexcept {
  std::fill_n(scores, part.from, T(0));
  return exp_row(scores + part.from, part.to - part.from, count - part.from, scale, shift);
}

// Caps the visible part of a row of scores, if there is a cap; see cap_scores.
template <class T>
void cap_visible(T* scores, Visible::Part part, T scale, double cap, T* slopes) noexcept {
  if (cap > 0.0)
    cap_scores(scores + part.from, part.to - part.from, scale, static_cast<T>(cap), slopes);
}

template <class T>
void attend_query_block(MatrixView<T> o, T* lse, MatrixView<const T> q, MatrixView<const T> k,
                        MatrixView<const T> v, const Visible& visible) {
  using Gemm = kernels<op::gemm, T, Cpu>;
  const Index rows = q.rows, end = visible.last + rows;
  const T scale = static_cast<T>(1.0 / std::sqrt(static_cast<double>(q.columns)));
  T* const scores = scratch<T>(Scratch::attention, query_block * key_block);
  T largest[query_block], sum[query_block];
  constexpr T nothing = -std::numeric_limits<T>::infinity();
  std::fill_n(largest, rows, nothing);
  std::fill_n(sum, rows, T(0));
  for (Index k0 = visible.begin; k0 < end; k0 += key_block) {
    const Index count = (std::min)(key_block, end - k0);
    const MatrixView<T> block(scores, rows, count);
    Gemm::run(GemmLayout::nt, block, q, k.rows_from(k0, count), Accumulate::overwrite);
    for (Index i = 0; i < rows; ++i) {
      const Visible::Part part = visible.part(i, k0, count);
      const T before = largest[i];
      cap_visible(block.row(i), part, scale, visible.softcap, static_cast<T*>(nullptr));
      if (part.from < part.to)
        largest[i] =
            (std::max)(before, scale * max_of_row(block.row(i) + part.from, part.to - part.from));
      const T block_sum = exp_part(block.row(i), part, count, scale, largest[i]);
      const T shrink = before == nothing ? T(0) : std::exp(before - largest[i]);
      sum[i] = sum[i] * shrink + block_sum;
      if (k0 > visible.begin && shrink != T(1))
        for (Index j = 0; j < o.columns; ++j) o.row(i)[j] *= shrink;
    }
    Gemm::run(GemmLayout::nn, o, block, v.rows_from(k0, count),
              k0 == visible.begin ? Accumulate::overwrite : Accumulate::add);
  }
  for (Index i = 0; i < rows; ++i) {
    const T inverse = T(1) / sum[i];
    for (Index j = 0; j < o.columns; ++j) o.row(i)[j] *= inverse;
    lse[i] = largest[i] + std::log(sum[i]);
  }
}

// Computes one query block's share of the gradients of the keys [from, to): overwrites its rows of
// dq, and overwrites or adds to dk and dv (key_mode) for those keys that it sees.
template <class T>
void attend_query_block_backward(MatrixView<T> dq, MatrixView<T> dk, MatrixView<T> dv,
                                 Accumulate key_mode, MatrixView<const T> d_o,
                                 MatrixView<const T> q, MatrixView<const T> k,
                                 MatrixView<const T> v, MatrixView<const T> o, const T* lse,
                                 const Visible& visible, Index from, Index to) {
  using Gemm = kernels<op::gemm, T, Cpu>;
  const Index rows = q.rows, begin = (std::max)(visible.begin, from),
              end = (std::min)(visible.last + rows, to);
  const T scale = static_cast<T>(1.0 / std::sqrt(static_cast<double>(q.columns)));
  T* const buffer = scratch<T>(Scratch::attention, 2 * query_block * key_block);
  T delta[query_block], slopes[key_block];
  for (Index i = 0; i < rows; ++i)
    delta[i] = static_cast<T>(row_sum<T>(o.columns, [&](Index j, auto piece) {
      return load_piece(o.row(i) + j, piece, T(0)) * load_piece(d_o.row(i) + j, piece, T(0));
    }));
  if (begin >= end)
    for (Index i = 0; i < rows; ++i) std::fill_n(dq.row(i), dq.columns, T(0));
  for (Index k0 = begin; k0 < end; k0 += key_block) {
    const Index count = (std::min)(key_block, end - k0);
    const MatrixView<T> p(buffer, rows, count), ds(buffer + query_block * key_block, rows, count);
    Gemm::run(GemmLayout::nt, p, q, k.rows_from(k0, count), Accumulate::overwrite);
    Gemm::run(GemmLayout::nt, ds, d_o, v.rows_from(k0, count), Accumulate::overwrite);
    for (Index i = 0; i < rows; ++i) {
      const Visible::Part part = visible.part(i, k0, count);
      cap_visible(p.row(i), part, scale, visible.softcap, slopes);
      exp_part(p.row(i), part, count, scale, lse[i]);
      for (Index j = 0; j < count; ++j)
        ds.row(i)[j] = p.row(i)[j] * ((ds.row(i)[j] - delta[i]) * scale);
      for (Index j = part.from; visible.softcap > 0.0 && j < part.to; ++j)
        ds.row(i)[j] *= slopes[j - part.from];
    }
    Gemm::run(GemmLayout::tn, dv.rows_from(k0, count), p, d_o, key_mode);
    Gemm::run(GemmLayout::tn, dk.rows_from(k0, count), ds, q, key_mode);
    Gemm::run(GemmLayout::nn, dq, ds, k.rows_from(k0, count),
              k0 == begin ? Accumulate::overwrite : Accumulate::add);
  }
}

}  // namespace detail

/// See ops/attention.hpp.
template <std::floating_point T>
struct kernels<op::attention, T, Cpu> {
  /// o [tokens, heads * head_size] and lse [batch * heads * sequence] from qkv [tokens, qkv_width].
  static void forward(MatrixView<T> o, T* lse, MatrixView<const T> qkv, const HeadLayout& layout,
                      const SequenceShape& shape) {
    const Index size = layout.head_size;
    const Index blocks = (shape.sequence + detail::query_block - 1) / detail::query_block;
    // The last block of a head sees the most keys and takes longest, so it runs first; the short
    // tasks at the end balance the threads.
    parallel_tasks(
        shape.batch * layout.heads * blocks, detail::query_block * shape.sequence * size,
        [&](Index task) {
          const Index head = task / blocks % layout.heads, batch = task / blocks / layout.heads;
          const Index first = (blocks - 1 - task % blocks) * detail::query_block;
          const Index rows = (std::min)(detail::query_block, shape.sequence - first);
          const Index kv = layout.q_width() + head / layout.group() * size;
          const auto part = [&](Index column) {
            return detail::head_rows(qkv, shape, batch, column, size);
          };
          detail::attend_query_block<T>(
              detail::head_rows(o, shape, batch, head * size, size).rows_from(first, rows),
              lse + (batch * layout.heads + head) * shape.sequence + first,
              part(head * size).rows_from(first, rows), part(kv), part(kv + layout.kv_width()),
              detail::visible_to(layout, shape, batch, first, rows));
        });
  }

  /// The last o.rows rows of forward()'s o, from all rows of one sequence.
  static void forward_last(MatrixView<T> o, MatrixView<const T> qkv, const HeadLayout& layout) {
    const Index size = layout.head_size, before = qkv.rows - o.rows;
    const SequenceShape shape{1, qkv.rows};
    const Index blocks = (o.rows + detail::query_block - 1) / detail::query_block;
    parallel_tasks(layout.heads * blocks, detail::query_block * qkv.rows * size, [&](Index task) {
      const Index head = task % layout.heads, row = task / layout.heads * detail::query_block;
      const Index rows = (std::min)(detail::query_block, o.rows - row);
      const Index kv = layout.q_width() + head / layout.group() * size;
      const auto part = [&](Index column) { return qkv.columns_from(column, size); };
      T lse[detail::query_block];  // only a backward pass needs them
      detail::attend_query_block<T>(o.rows_from(row, rows).columns_from(head * size, size), lse,
                                    part(head * size).rows_from(before + row, rows), part(kv),
                                    part(kv + layout.kv_width()),
                                    detail::visible_to(layout, shape, 0, before + row, rows));
    });
  }

  /// Writes every element of grad_qkv, given grad_o, the input qkv of the forward pass and its
  /// results o and lse.
  static void backward(MatrixView<T> grad_qkv, MatrixView<const T> grad_o, MatrixView<const T> qkv,
                       MatrixView<const T> o, const T* lse, const HeadLayout& layout,
                       const SequenceShape& shape) {
    const Index pairs = shape.batch * layout.kv_heads, parts = key_parts(pairs, shape.sequence);
    // A task is the share of one part of the keys of one kv head, in the gradients of these keys
    // and of all queries. The first part writes the gradients of the queries; the others have
    // their own, which are added in the order of the parts. The first part takes longest and runs
    // first.
    const Index tokens = shape.tokens();
    Matrix<T> others((parts - 1) * tokens, layout.q_width());
    parallel_tasks(
        parts * pairs, shape.sequence * shape.sequence / parts * layout.head_size, [&](Index task) {
          const Index part = task / pairs, kv_head = task % pairs % layout.kv_heads;
          backward_of_keys(
              grad_qkv, part == 0 ? grad_qkv : others.view().rows_from((part - 1) * tokens, tokens),
              grad_o, qkv, o, lse, layout, shape, task % pairs / layout.kv_heads, kv_head,
              part * shape.sequence / parts, (part + 1) * shape.sequence / parts);
        });
    if (parts == 1) return;
    parallel_for(tokens, parts * layout.q_width(), [&](Index row) {
      const Index block = row % shape.sequence / detail::query_block;
      for (Index part = 1; part < parts; ++part) {
        if (part * shape.sequence / parts / detail::query_block > block) break;  // sees no key
        const T* const other = others.row((part - 1) * tokens + row);
        for (Index j = 0; j < layout.q_width(); ++j) grad_qkv.row(row)[j] += other[j];
      }
    });
  }

 private:
  // Parts of the keys in the backward pass, so that there are at least 8 tasks, but a part has at
  // least 64 keys. Depends on the shape alone, because it determines the order of additions.
  static Index key_parts(Index pairs, Index sequence) noexcept {
    return std::clamp((7 + pairs) / (std::max)(pairs, Index(1)), Index(1),
                      (std::max)(sequence / 64, Index(1)));
  }

  // The keys [from, to) of one kv head.
  static void backward_of_keys(MatrixView<T> grad_qkv, MatrixView<T> grad_q,
                               MatrixView<const T> grad_o, MatrixView<const T> qkv,
                               MatrixView<const T> o, const T* lse, const HeadLayout& layout,
                               const SequenceShape& shape, Index batch, Index kv_head, Index from,
                               Index to) {
    const Index size = layout.head_size;
    const Index blocks = (shape.sequence + detail::query_block - 1) / detail::query_block;
    const auto part = [&](auto x, Index column) {
      return detail::head_rows(x, shape, batch, column, size);
    };
    const Index k = layout.q_width() + kv_head * size, v = k + layout.kv_width();
    // Without a window or packed samples, the last query block sees every key. It runs first and
    // overwrites dk and dv, so they need not be set to zero.
    const bool all_seen = layout.window == 0 && shape.sample_begin.empty();
    if (!all_seen)
      for (Index row = from; row < to; ++row) {
        std::fill_n(part(grad_qkv, k).row(row), size, T(0));
        std::fill_n(part(grad_qkv, v).row(row), size, T(0));
      }
    for (Index head = kv_head * layout.group(); head < (kv_head + 1) * layout.group(); ++head)
      for (Index block = blocks - 1; block >= from / detail::query_block; --block) {
        const Index first = block * detail::query_block,
                    rows = (std::min)(detail::query_block, shape.sequence - first);
        const bool writes = all_seen && block == blocks - 1 && head == kv_head * layout.group();
        detail::attend_query_block_backward<T>(
            part(grad_q, head * size).rows_from(first, rows), part(grad_qkv, k), part(grad_qkv, v),
            writes ? Accumulate::overwrite : Accumulate::add,
            part(grad_o, head * size).rows_from(first, rows),
            part(qkv, head * size).rows_from(first, rows), part(qkv, k), part(qkv, v),
            part(o, head * size).rows_from(first, rows),
            lse + (batch * layout.heads + head) * shape.sequence + first,
            detail::visible_to(layout, shape, batch, first, rows), from, to);
      }
  }
};

/// In float, on copies. The products of one head are too small to gain from BFloat16.
template <>
struct kernels<op::attention, BFloat16, Cpu> {
  using InFloat = kernels<op::attention, float, Cpu>;  ///< computes all

  /// See the template above.
  template <class... Shapes>
  static void forward(MatrixView<BFloat16> o, float* lse, MatrixView<const BFloat16> qkv,
                      const Shapes&... shapes) {
    Copies copies(size(qkv) + size(o));
    const MatrixView<float> wide_o = copies.of(o);
    InFloat::forward(wide_o, lse, copies.filled(qkv), shapes...);
    Convert::convert_from(o, wide_o);
  }

  /// See the template above.
  static void forward_last(MatrixView<BFloat16> o, MatrixView<const BFloat16> qkv,
                           const HeadLayout& layout) {
    Copies copies(size(qkv) + size(o));
    const MatrixView<float> wide_o = copies.of(o);
    InFloat::forward_last(wide_o, copies.filled(qkv), layout);
    Convert::convert_from(o, wide_o);
  }

  /// See the template above.
  template <class... Shapes>
  static void backward(MatrixView<BFloat16> grad_qkv, MatrixView<const BFloat16> grad_o,
                       MatrixView<const BFloat16> qkv, MatrixView<const BFloat16> o,
                       const float* lse, const Shapes&... shapes) {
    Copies copies(2 * (size(qkv) + size(o)));
    const MatrixView<float> wide = copies.of(grad_qkv);
    InFloat::backward(wide, copies.filled(grad_o), copies.filled(qkv), copies.filled(o), lse,
                      shapes...);
    Convert::convert_from(grad_qkv, wide);
  }

 private:
  using Convert = kernels<op::elementwise, BFloat16, Cpu>;

  static Index size(MatrixView<const BFloat16> x) { return x.rows * x.columns; }

  // Matrices in one piece of scratch memory.
  class Copies {
   public:
    explicit Copies(Index elements)
        : next_(detail::scratch<float>(detail::Scratch::wide, elements)) {}
    MatrixView<float> of(MatrixView<const BFloat16> shape) {
      const MatrixView<float> copy(next_, shape.rows, shape.columns);
      next_ += size(shape);
      return copy;
    }
    MatrixView<const float> filled(MatrixView<const BFloat16> from) {
      const MatrixView<float> copy = of(from);
      Convert::convert_to(copy, from);
      return copy;
    }

   private:
    float* next_;
  };
};

}  // namespace ops
DROPBP_NAMESPACE_END
