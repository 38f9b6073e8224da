// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Token embedding on the CPU. See ops/embedding.hpp.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <span>

#include "dropbp/kernels/cpu/parallel.hpp"
#include "dropbp/kernels/kernels.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// See ops/embedding.hpp, which checks the tokens.
template <std::floating_point T>
struct kernels<op::embedding, T, Cpu> {
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
                   [&](Index id) { std::fill_n(gradient.row(id), gradient.columns, T(0)); });
    // The columns are divided among the threads, so that each element adds its tokens in order.
    const Index parts = (std::min)(thread_count(), (gradient.columns + 63) / 64);
    parallel_for(parts, grad_output.rows * 64, [&](Index part) {
      const Index first = gradient.columns * part / parts,
                  last = gradient.columns * (part + 1) / parts;
      for (Index t = 0; t < grad_output.rows; ++t) {
        T* const row = gradient.row(tokens[static_cast<std::size_t>(t)]);
        for (Index j = first; j < last; ++j) row[j] += grad_output.row(t)[j];
      }
    });
  }
};

}  // namespace ops
DROPBP_NAMESPACE_END
