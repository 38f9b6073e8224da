// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Token embedding on the CPU. See ops/embedding.hpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <span>
#include <vector>

#include "dropbp/kernels/cpu/parallel.hpp"
#include "dropbp/kernels/cpu/simd.hpp"
#include "dropbp/kernels/kernels.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// See ops/embedding.hpp, which checks the tokens.
template <HostScalar T>
struct kernels<op::embedding, T, Cpu> {
  using S = Statistic<T>;  ///< what rows are added up in

  /// out [tokens, hidden]: row t is row tokens[t] of weight [vocabulary, hidden].
  static void forward(MatrixView<T> out, std::span<const std::int32_t> tokens,
                      MatrixView<const T> weight) {
    parallel_for(out.rows, out.columns, [&](Index t) {
      std::memcpy(out.row(t), weight.row(tokens[static_cast<std::size_t>(t)]),
                  static_cast<std::size_t>(out.columns) * sizeof(T));
    });
  }

  /// gradient [vocabulary, hidden]: row id (=|+=) the sum of the rows t of grad_output with
  /// tokens[t] == id, in the order of t.
  static void backward(MatrixView<T> gradient, Accumulate mode, MatrixView<const T> grad_output,
                       std::span<const std::int32_t> tokens) {
    if (mode == Accumulate::overwrite)
      parallel_for(gradient.rows, gradient.columns,
                   [&](Index id) { std::fill_n(gradient.row(id), gradient.columns, T{}); });
    // The tokens of each id one after the other, in order; then each row is added up at once.
    std::vector<Index> order(tokens.size());
    std::iota(order.begin(), order.end(), Index(0));
    const auto id_of = [&](Index t) { return tokens[static_cast<std::size_t>(t)]; };
    // As a stable sort, which libstdc++ gives a buffer that clang++ 19 calls deprecated.
    std::sort(order.begin(), order.end(),
              [&](Index a, Index b) { return id_of(a) != id_of(b) ? id_of(a) < id_of(b) : a < b; });
    const Index count = static_cast<Index>(order.size());
    const auto token = [&](Index k) { return order[static_cast<std::size_t>(k)]; };
    parallel_for(count, gradient.columns, [&](Index first) {
      const auto id = id_of(token(first));
      if (first > 0 && id_of(token(first - 1)) == id) return;  // the id's first token does it
      Index last = first + 1;
      while (last < count && id_of(token(last)) == id) ++last;
      T* const row = gradient.row(id);
      detail::with_vectors<S>([&](auto n) DROPBP_FORCE_INLINE {
        detail::for_each_piece<n>(gradient.columns, [&](Index j, auto piece) DROPBP_FORCE_INLINE {
          auto sum = detail::load_piece(row + j, piece, S(0));
          for (Index k = first; k < last; ++k)
            sum += detail::load_piece(grad_output.row(token(k)) + j, piece, S(0));
          detail::store_piece(row + j, sum, piece);
        });
      });
    });
  }
};

}  // namespace ops
DROPBP_NAMESPACE_END
