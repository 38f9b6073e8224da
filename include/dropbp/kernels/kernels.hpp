// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The interface between the ops and the code of a backend. One template, specialised for each
// operation and backend in a file of the operation's name: kernels/cpu/NAME.hpp, in which its
// members are explained, and kernels/cuda/NAME.hpp.
//
// A new operation is a tag below, kernels/cpu/NAME.hpp, ops/NAME.hpp, which users call, and for
// CUDA kernels/cuda/NAME.hpp and a line in the list of kernels/cuda.hpp.
#pragma once

#include <cstdint>

#include "dropbp/backend/kernels.hpp"
#include "dropbp/kernels/matrix.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// The operations, by the names of their files. View stands for MatrixView<T, Backend>, ConstView
/// for that of const T, and S for Statistic<T>; all work in the order of the current stream.
namespace op {
/// copy(View to, ConstView from), set_zero(View y), accumulate(View y, ConstView x),
/// scale(View y, double factor), convert_from(View to, floats), convert_to(floats, ConstView from)
struct elementwise;
/// run(View y, ConstView x, double rate, seed, step, micro_step)
struct dropout;
/// run(GemmLayout, View c, ConstView a, ConstView b, Accumulate)
struct gemm;
/// forward(View y, S* rstd, ConstView x, const T* w, double eps),
/// recompute(View y, ConstView x, const T* w, const S* rstd),
/// backward(View grad_input, Accumulate, ConstView grad_output, ConstView x, const T* w,
///          const S* rstd, T* grad_weight, Accumulate, S* workspace),
/// backward_workspace(Index rows, Index columns)
struct rms_norm;
/// run(View x, const S* cosine, const S* sine, heads, half, sequence, Rotation)
struct rope;
/// forward(View o, S* lse, ConstView qkv, HeadLayout, SequenceShape),
/// backward(View grad_qkv, ConstView grad_o, ConstView qkv, ConstView o, const S* lse, HeadLayout,
///          SequenceShape)
struct attention;
/// forward(View out, ConstView gate_up),
/// backward(View grad_gate_up, View out_gradient, ConstView gate_up)
struct swiglu;
/// forward(View out, tokens, ConstView weight),
/// backward(View gradient, Accumulate, ConstView grad_output, tokens)
struct embedding;
/// expand(View to, Index first, codes, scales, group_scales, float offset)
struct nf4;
/// Loss; run(View logits, Loss* losses, targets, ignored, double divisor, bool keep)
struct cross_entropy;
/// run(segments, constants)
struct adamw;
/// run(tensors), of each its squared norm; waits for the stream
struct squared_norms;
}  // namespace op

/// The code of operation `Op` for scalar T in the memory of a backend.
template <class Op, class T, class Backend>
struct kernels {
  static_assert(
      dropbp::detail::always_false<Op, T, Backend>,
      "dropbp: there are no kernels for this (operation, scalar, backend). dropbp::Cpu takes float "
      "and double and needs nothing; dropbp::Cuda takes float, dropbp::BFloat16 and dropbp::Half: "
      "include dropbp/kernels/cuda.hpp before the ops; for a backend of your own specialise "
      "dropbp::ops::kernels<Op, T, Backend>.");
};

/// C = A B^T (A [m, k], B [n, k]), A B (B [k, n]) or A^T B (A [k, m], B [k, n]); C is [m, n]. As in
/// BLAS: n is a matrix as it is, t is transposed.
enum class GemmLayout : std::uint8_t { nt, nn, tn };

/// The inverse is the backward pass of a rotation: rotations are orthogonal.
enum class Rotation { forward, inverse };

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

/// One parameter of an AdamW update.
template <class T>
struct AdamWSegment {
  T* value;                      ///< what is used
  const T* gradient;             ///< of the loss
  Statistic<T>* master;          ///< the value itself; null where T is as wide
  Statistic<T>* first_moment;    ///< mean of gradients
  Statistic<T>* second_moment;   ///< mean of their squares
  std::int64_t size;             ///< elements of each
  Statistic<T> step_size;        ///< learning rate / (1 - beta1^t)
  Statistic<T> root_correction;  ///< 1 / sqrt(1 - beta2^t)
  Statistic<T> keep;             ///< 1 - learning rate * weight decay, or 1 where there is none
  std::int64_t first_chunk;      ///< for the kernels of a device: chunks of all segments before it
};

/// What all segments of an update share. S is the Statistic of their scalar.
template <class S>
struct AdamWConstants {
  S beta1;   ///< decay of the first moment
  S rest1;   ///< 1 - beta1, rounded from double
  S beta2;   ///< decay of the second
  S rest2;   ///< 1 - beta2, rounded from double
  S eps;     ///< added to the root
  S factor;  ///< of the gradient
};

}  // namespace ops
DROPBP_NAMESPACE_END
