// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Token embedding. Its backward pass adds gradients in the order of the tokens.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <type_traits>

#include "dropbp/kernels/cpu/embedding.hpp"
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

/// out [tokens, hidden]: row t is row tokens[t] of weight [vocabulary, hidden]. Throws
/// std::invalid_argument for an id outside the vocabulary, before it writes anything.
template <class T, class Backend = Cpu>
void embedding_forward(MatrixView<T, Backend> out, std::span<const std::int32_t> tokens,
                       const Parameter<T, Backend>& weight) {
  detail::require_tokens(tokens, weight.rows());
  detail::require_rows("the embedding's output", out.rows, tokens.size());
  kernels<op::embedding, T, Backend>::forward(out, tokens, weight.value());
}

/// Computes the gradient of a trained weight; does nothing for a frozen one. Row id (=|+=) the sum
/// of the rows t of grad_output with tokens[t] == id, in the order of t; Parameter::begin_gradient
/// says whether it overwrites or adds. Throws what embedding_forward throws, and std::logic_error
/// while the current CUDA stream is captured into a graph.
template <class T, class Backend = Cpu>
void embedding_backward(std::type_identity_t<MatrixView<const T, Backend>> grad_output,
                        std::span<const std::int32_t> tokens, Parameter<T, Backend>& weight) {
  detail::require_tokens(tokens, weight.rows());
  detail::require_rows("the embedding's grad_output", grad_output.rows, tokens.size());
  if (!weight.trained) return;
  device_runtime<Backend>::require_no_capture("an embedding's gradient");  // before begin_gradient
  const Accumulate mode = weight.begin_gradient();
  kernels<op::embedding, T, Backend>::backward(weight.gradient(), mode, grad_output, tokens);
}

}  // namespace ops
DROPBP_NAMESPACE_END
