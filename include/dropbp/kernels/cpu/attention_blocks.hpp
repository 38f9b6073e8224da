// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// One block of queries of one head, for attention.hpp: its online softmax over blocks of keys, and
// the gradients.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "dropbp/kernels/cpu/gemm.hpp"
#include "dropbp/kernels/cpu/scratch.hpp"
#include "dropbp/kernels/cpu/softcap.hpp"
#include "dropbp/kernels/cpu/softmax.hpp"
#include "dropbp/kernels/kernels.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops::detail {

// Query rows of a block: a multiple of the product's rows of a tile. With more rows, fewer packings
// of keys and values, but half of the block on the diagonal is masked: on AMD Zen 4, heads of 64,
// the forward pass has 45 GFLOP/s with 48 rows, 55 with 96 and 49 with 192 at 256 tokens, and 72,
// 74 and 74 at 4,096.
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

// Row i of to = row i of from * factor(i), rounded to T.
template <class T, class Factor>
void scale_rows(MatrixView<T> to, MatrixView<const Statistic<T>> from, const Factor& factor) {
  using S = Statistic<T>;
  with_vectors<S>([&](auto n) DROPBP_FORCE_INLINE {
    for (Index i = 0; i < to.rows; ++i) {
      const S by = factor(i);
      for_each_piece<n>(to.columns, [&](Index j, auto piece) DROPBP_FORCE_INLINE {
        store_piece(to.row(i) + j, load_piece(from.row(i) + j, piece, S(0)) * by, piece);
      });
    }
  });
}
template <class T>
void round_rows(MatrixView<T> to, MatrixView<const Statistic<T>> from) {
  scale_rows<T>(to, from, [](Index) { return Statistic<T>(1); });
}

// Scratch memory of one block. Scores and sums are computed in Statistic<T>; where T is narrower,
// an operand of a product is a rounded copy.
template <class T>
class BlockScratch {
  using S = Statistic<T>;

 public:
  // For `count` matrices of scores, and the sums of a block's outputs.
  BlockScratch(Index count, Index head_size)
      : scores_(scratch<S>(Scratch::attention,
                           count * block_size + (rounds ? query_block * head_size : Index(0)))),
        sums_(scores_ + count * block_size),
        rounded_(rounds ? scratch<T>(Scratch::rounded, count * block_size) : nullptr) {}

  MatrixView<S> scores(Index number, Index rows, Index count) const noexcept {
    return {scores_ + number * block_size, rows, count};
  }
  // Where the sums for `to` are computed.
  MatrixView<S> sums(MatrixView<T> to) const noexcept {
    if constexpr (rounds)
      return {sums_, to.rows, to.columns};
    else
      return to;
  }
  MatrixView<const T> operand(MatrixView<S> scores) const noexcept {
    if constexpr (rounds) {
      const MatrixView<T> to(rounded_ + (scores.data - scores_), scores.rows, scores.columns);
      round_rows<T>(to, scores);
      return to;
    } else {
      return scores;
    }
  }

 private:
  static constexpr bool rounds = !std::is_same_v<T, S>;
  static constexpr Index block_size = query_block * key_block;
  S *scores_, *sums_;
  T* rounded_;
};

template <class T>
void attend_query_block(MatrixView<T> o, Statistic<T>* lse, MatrixView<const T> q,
                        MatrixView<const T> k, MatrixView<const T> v, const Visible& visible) {
  using S = Statistic<T>;
  using Gemm = kernels<op::gemm, T, Cpu>;
  const Index rows = q.rows, end = visible.last + rows;
  const S scale = static_cast<S>(1.0 / std::sqrt(static_cast<double>(q.columns)));
  const BlockScratch<T> memory(1, q.columns);
  const MatrixView<S> sums = memory.sums(o);
  S largest[query_block], sum[query_block];
  constexpr S nothing = -std::numeric_limits<S>::infinity();
  std::fill_n(largest, rows, nothing);
  std::fill_n(sum, rows, S(0));
  for (Index k0 = visible.begin; k0 < end; k0 += key_block) {
    const Index count = (std::min)(key_block, end - k0);
    const MatrixView<S> block = memory.scores(0, rows, count);
    Gemm::run(GemmLayout::nt, block, q, k.rows_from(k0, count), Accumulate::overwrite);
    for (Index i = 0; i < rows; ++i) {
      const Visible::Part part = visible.part(i, k0, count);
      const S before = largest[i];
      cap_visible(block.row(i), part, scale, visible.softcap, static_cast<S*>(nullptr));
      if (part.from < part.to)
        largest[i] =
            (std::max)(before, scale * max_of_row(block.row(i) + part.from, part.to - part.from));
      const S block_sum = exp_part(block.row(i), part, count, scale, largest[i]);
      const S shrink = before == nothing ? S(0) : std::exp(before - largest[i]);
      sum[i] = sum[i] * shrink + block_sum;
      if (k0 > visible.begin && shrink != S(1))
        for (Index j = 0; j < sums.columns; ++j) sums.row(i)[j] *= shrink;
    }
    Gemm::run(GemmLayout::nn, sums, memory.operand(block), v.rows_from(k0, count),
              k0 == visible.begin ? Accumulate::overwrite : Accumulate::add);
  }
  for (Index i = 0; i < rows; ++i) lse[i] = largest[i] + std::log(sum[i]);
  scale_rows<T>(o, sums, [&](Index i) { return S(1) / sum[i]; });
}

// gradients = probabilities * (gradients - delta) * scale.
template <class S>
void score_gradients(S* gradients, const S* probabilities, Index count, S delta, S scale) {
  with_vectors<S>([&](auto n) DROPBP_FORCE_INLINE {
    for_each_piece<n>(count, [&](Index j, auto piece) DROPBP_FORCE_INLINE {
      const auto p = load_piece(probabilities + j, piece, S(0));
      const auto difference = load_piece(gradients + j, piece, S(0)) - delta;
      store_piece(gradients + j, p * (difference * scale), piece);
    });
  });
}

// Computes one query block's share of the gradients of the keys [from, to): overwrites its rows of
// dq, and overwrites or adds to dk and dv (key_mode) for those keys that it sees.
template <class T>
void attend_query_block_backward(MatrixView<Statistic<T>> dq, MatrixView<Statistic<T>> dk,
                                 MatrixView<Statistic<T>> dv, Accumulate key_mode,
                                 MatrixView<const T> d_o, MatrixView<const T> q,
                                 MatrixView<const T> k, MatrixView<const T> v,
                                 MatrixView<const T> o, const Statistic<T>* lse,
                                 const Visible& visible, Index from, Index to) {
  using S = Statistic<T>;
  using Gemm = kernels<op::gemm, T, Cpu>;
  const Index rows = q.rows, begin = (std::max)(visible.begin, from),
              end = (std::min)(visible.last + rows, to);
  const S scale = static_cast<S>(1.0 / std::sqrt(static_cast<double>(q.columns)));
  const BlockScratch<T> memory(2, q.columns);
  S delta[query_block], slopes[key_block];
  with_vectors<S>([&](auto n) DROPBP_FORCE_INLINE {
    for (Index i = 0; i < rows; ++i)
      delta[i] =
          static_cast<S>(row_sum<S, n>(o.columns, [&](Index j, auto piece) DROPBP_FORCE_INLINE {
            return load_piece(o.row(i) + j, piece, S(0)) * load_piece(d_o.row(i) + j, piece, S(0));
          }));
  });
  if (begin >= end)
    for (Index i = 0; i < rows; ++i) std::fill_n(dq.row(i), dq.columns, S(0));
  for (Index k0 = begin; k0 < end; k0 += key_block) {
    const Index count = (std::min)(key_block, end - k0);
    const MatrixView<S> p = memory.scores(0, rows, count), ds = memory.scores(1, rows, count);
    Gemm::run(GemmLayout::nt, p, q, k.rows_from(k0, count), Accumulate::overwrite);
    Gemm::run(GemmLayout::nt, ds, d_o, v.rows_from(k0, count), Accumulate::overwrite);
    for (Index i = 0; i < rows; ++i) {
      const Visible::Part part = visible.part(i, k0, count);
      cap_visible(p.row(i), part, scale, visible.softcap, slopes);
      exp_part(p.row(i), part, count, scale, lse[i]);
      score_gradients(ds.row(i), p.row(i), count, delta[i], scale);
      for (Index j = part.from; visible.softcap > 0.0 && j < part.to; ++j)
        ds.row(i)[j] *= slopes[j - part.from];
    }
    Gemm::run(GemmLayout::tn, dv.rows_from(k0, count), memory.operand(p), d_o, key_mode);
    const MatrixView<const T> of_scores = memory.operand(ds);
    Gemm::run(GemmLayout::tn, dk.rows_from(k0, count), of_scores, q, key_mode);
    Gemm::run(GemmLayout::nn, dq, of_scores, k.rows_from(k0, count),
              k0 == begin ? Accumulate::overwrite : Accumulate::add);
  }
}

}  // namespace ops::detail
DROPBP_NAMESPACE_END
