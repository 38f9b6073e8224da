// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Token embedding: rows of a table, and their gradients added up in the order of the tokens.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

#include "dropbp/ops/parameter.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {
namespace detail {

inline void require_tokens(std::span<const std::int32_t> tokens, Index vocabulary) {
  for (std::size_t t = 0; t < tokens.size(); ++t)
    if (tokens[t] < 0 || tokens[t] >= vocabulary)
      throw_invalid("token ids must lie in [0, " + std::to_string(vocabulary) + ")",
                    "id " + std::to_string(tokens[t]) + " stands at position " + std::to_string(t),
                    "check the tokenizer against the model's vocabulary");
}

inline void require_rows(const char* what, Index rows, std::size_t tokens) {
  if (rows != static_cast<Index>(tokens))
    throw_invalid(
        std::string(what) + " must have one row per token",
        std::to_string(rows) + " rows for " + std::to_string(tokens) + " tokens were given",
        "pass batch * sequence of both");
}

}  // namespace detail

/// out [tokens, hidden] = the rows of weight [vocabulary, hidden] with the tokens' ids. Throws
/// std::invalid_argument for an id outside the vocabulary, before anything is written.
template <class T>
void embedding_forward(MatrixView<T> out, std::span<const std::int32_t> tokens,
                       const Parameter<T>& weight) {
  detail::require_tokens(tokens, weight.rows());
  detail::require_rows("the embedding's output", out.rows, tokens.size());
  parallel_for(out.rows, out.columns, [&](Index t) {
    std::memcpy(out.row(t), weight.value().row(tokens[static_cast<std::size_t>(t)]),
                static_cast<std::size_t>(out.columns) * sizeof(T));
  });
}

/// The weight's gradient by its contract: row id (=|+=) the sum of grad_output's rows of that id,
/// in the tokens' order. Nothing for a frozen weight.
template <class T>
void embedding_backward(std::type_identity_t<MatrixView<const T>> grad_output,
                        std::span<const std::int32_t> tokens, Parameter<T>& weight) {
  detail::require_tokens(tokens, weight.rows());
  detail::require_rows("the embedding's grad_output", grad_output.rows, tokens.size());
  if (!weight.trained) return;
  const Accumulate mode = weight.begin_gradient();
  const MatrixView<T> gradient = weight.gradient();
  if (mode == Accumulate::overwrite)
    parallel_for(gradient.rows, gradient.columns,
                 [&](Index id) { std::fill_n(gradient.row(id), gradient.columns, T(0)); });
  // Threads share the columns, so that every element sees the tokens in order.
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

}  // namespace ops
DROPBP_NAMESPACE_END
