// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Causal grouped-query attention in blocks with an online softmax; it never stores a matrix
// [sequence, sequence]. Sources: Dao et al., "FlashAttention" (NeurIPS 2022); for grouped queries
// Ainslie et al. (arXiv 2305.13245).
#pragma once

#include <cstddef>
#include <string>
#include <type_traits>

#include "dropbp/kernels/cpu/attention.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {
namespace detail {

inline void require_visible(const HeadLayout& layout, const SequenceShape& shape) {
  if (layout.window < 0)
    throw_invalid("the window of attention must be at least 1, or 0 for none",
                  std::to_string(layout.window) + " was given",
                  "take the sliding_window of the model's config.json");
  const auto rows = static_cast<Index>(shape.sample_begin.size());
  if (rows == 0) return;
  if (rows != shape.tokens())
    throw_invalid(
        "sample_begin needs one number per token (" + std::to_string(shape.tokens()) + "), or none",
        std::to_string(rows) + " were given",
        "write the position at which the sample of each token begins");
  for (Index row = 0; row < rows; ++row) {
    const Index begin = shape.sample_begin[static_cast<std::size_t>(row)];
    if (begin < 0 || begin > row % shape.sequence)
      throw_invalid("a sample must begin in its sequence, at or before each of its tokens",
                    "the sample of position " + std::to_string(row % shape.sequence) +
                        " of sequence " + std::to_string(row / shape.sequence) + " begins at " +
                        std::to_string(begin),
                    "count positions from the start of the sequence");
  }
}

}  // namespace detail

/// For each head of each sequence: o [tokens, heads * head_size] = softmax(q k^T / sqrt(head_size),
/// causal) v. The heads q and k in qkv [tokens, qkv_width] are already rotated. lse [batch *
/// heads * sequence] is the logarithm of the softmax's denominators.
///
/// The query at `position` sees the keys from max(sample_begin of its row, position - window + 1)
/// to `position`; blocks of keys that no query of a block sees are not computed. Throws
/// std::invalid_argument for a negative window, and unless sample_begin is empty or has one number
/// in [0, position] per row; on a CUDA device also for a window and for packed samples.
template <class T, class Backend = Cpu>
void attention_forward(MatrixView<T, Backend> o, Statistic<T>* lse,
                       std::type_identity_t<MatrixView<const T, Backend>> qkv,
                       const HeadLayout& layout, const SequenceShape& shape) {
  detail::require_visible(layout, shape);
  kernels<op::attention, T, Backend>::forward(o, lse, qkv, layout, shape);
}

/// Writes every element of grad_qkv [tokens, qkv_width], given grad_o [tokens, heads * head_size],
/// the input qkv of the forward pass and its results o and lse.
template <class T, class Backend = Cpu>
void attention_backward(MatrixView<T, Backend> grad_qkv,
                        std::type_identity_t<MatrixView<const T, Backend>> grad_o,
                        std::type_identity_t<MatrixView<const T, Backend>> qkv,
                        std::type_identity_t<MatrixView<const T, Backend>> o,
                        const Statistic<T>* lse, const HeadLayout& layout,
                        const SequenceShape& shape) {
  detail::require_visible(layout, shape);
  kernels<op::attention, T, Backend>::backward(grad_qkv, grad_o, qkv, o, lse, layout, shape);
}

}  // namespace ops
DROPBP_NAMESPACE_END
