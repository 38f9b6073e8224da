// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Causal grouped-query attention on the CPU, in blocks with an online softmax. See
// ops/attention.hpp.
#pragma once

#include <algorithm>
#include <type_traits>

#include "dropbp/kernels/cpu/attention_blocks.hpp"
#include "dropbp/kernels/cpu/elementwise.hpp"
#include "dropbp/kernels/cpu/parallel.hpp"
#include "dropbp/kernels/cpu/scratch.hpp"
#include "dropbp/kernels/kernels.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// See ops/attention.hpp.
template <HostScalar T>
struct kernels<op::attention, T, Cpu> {
  using S = Statistic<T>;  ///< of scores, and of sums of products

  /// o [tokens, heads * head_size] and lse [batch * heads * sequence] from qkv [tokens, qkv_width].
  static void forward(MatrixView<T> o, S* lse, MatrixView<const T> qkv, const HeadLayout& layout,
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
      S lse[detail::query_block];  // only a backward pass needs them
      detail::attend_query_block<T>(o.rows_from(row, rows).columns_from(head * size, size), lse,
                                    part(head * size).rows_from(before + row, rows), part(kv),
                                    part(kv + layout.kv_width()),
                                    detail::visible_to(layout, shape, 0, before + row, rows));
    });
  }

  /// Writes every element of grad_qkv, given grad_o, the input qkv of the forward pass and its
  /// results o and lse.
  static void backward(MatrixView<T> grad_qkv, MatrixView<const T> grad_o, MatrixView<const T> qkv,
                       MatrixView<const T> o, const S* lse, const HeadLayout& layout,
                       const SequenceShape& shape) {
    if constexpr (std::is_same_v<T, S>) {
      backward_sums(grad_qkv, grad_o, qkv, o, lse, layout, shape);
    } else {
      const MatrixView<S> sums(
          detail::scratch<S>(detail::Scratch::wide, grad_qkv.rows * grad_qkv.columns),
          grad_qkv.rows, grad_qkv.columns);
      backward_sums(sums, grad_o, qkv, o, lse, layout, shape);
      kernels<op::elementwise, T, Cpu>::convert_from(grad_qkv, sums);
    }
  }

 private:
  // As backward, before results are rounded to T.
  static void backward_sums(MatrixView<S> grad_qkv, MatrixView<const T> grad_o,
                            MatrixView<const T> qkv, MatrixView<const T> o, const S* lse,
                            const HeadLayout& layout, const SequenceShape& shape) {
    const Index pairs = shape.batch * layout.kv_heads, parts = key_parts(pairs, shape.sequence);
    // A task is the share of one part of the keys of one kv head, in the gradients of these keys
    // and of all queries. The first part writes the gradients of the queries; the others have
    // their own, which are added in the order of the parts. The first part takes longest and runs
    // first.
    const Index tokens = shape.tokens();
    Matrix<S> others((parts - 1) * tokens, layout.q_width());
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
        const S* const other = others.row((part - 1) * tokens + row);
        for (Index j = 0; j < layout.q_width(); ++j) grad_qkv.row(row)[j] += other[j];
      }
    });
  }

  // Parts of the keys in the backward pass, so that there are at least 8 tasks, but a part has at
  // least 64 keys. Depends on the shape alone, because it determines the order of additions.
  static Index key_parts(Index pairs, Index sequence) noexcept {
    return std::clamp((7 + pairs) / (std::max)(pairs, Index(1)), Index(1),
                      (std::max)(sequence / 64, Index(1)));
  }

  // The keys [from, to) of one kv head.
  static void backward_of_keys(MatrixView<S> grad_qkv, MatrixView<S> grad_q,
                               MatrixView<const T> grad_o, MatrixView<const T> qkv,
                               MatrixView<const T> o, const S* lse, const HeadLayout& layout,
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
        std::fill_n(part(grad_qkv, k).row(row), size, S(0));
        std::fill_n(part(grad_qkv, v).row(row), size, S(0));
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

}  // namespace ops
DROPBP_NAMESPACE_END
