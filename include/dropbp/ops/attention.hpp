// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Causal grouped-query attention in blocks with an online softmax; it never stores a matrix
// [sequence, sequence]. Sources: Dao et al., "FlashAttention" (NeurIPS 2022); for grouped queries
// Ainslie et al. (arXiv 2305.13245).
#pragma once

#include <type_traits>

#include "dropbp/kernels/cpu/attention.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// For each head of each sequence: o [tokens, heads * head_size] = softmax(q k^T / sqrt(head_size),
/// causal) v. The heads q and k in qkv [tokens, qkv_width] are already rotated. lse [batch *
/// heads * sequence] is the logarithm of the softmax's denominators.
template <class T, class Backend = Cpu>
void attention_forward(MatrixView<T, Backend> o, Statistic<T>* lse,
                       std::type_identity_t<MatrixView<const T, Backend>> qkv,
                       const HeadLayout& layout, const SequenceShape& shape) {
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
  kernels<op::attention, T, Backend>::backward(grad_qkv, grad_o, qkv, o, lse, layout, shape);
}

}  // namespace ops
DROPBP_NAMESPACE_END
