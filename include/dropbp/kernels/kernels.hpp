// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The interface between the ops and the code of a backend: one template, specialised for each
// operation and backend. The specialisations of operation NAME are in kernels/cpu/NAME.hpp, which
// documents the members, and in kernels/cuda/NAME.hpp.
//
// To add an operation, add a tag below, kernels/cpu/NAME.hpp and ops/NAME.hpp, which users call;
// for CUDA add kernels/cuda/NAME.hpp and two lines in kernels/cuda.hpp: an include and an entry in
// its list.
#pragma once

#include <cstdint>
#include <span>

#include "dropbp/backend/kernels.hpp"
#include "dropbp/kernels/matrix.hpp"

#if !DROPBP_EXCEPTIONS
#error "dropbp: the ops are compiled with exceptions; with -fno-exceptions the core is there"
#endif

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// Tags of the operations, named like their files. Notation: View is MatrixView<T, Backend>,
/// ConstView is MatrixView<const T, Backend>, S is Statistic<T>. On CUDA all operations run in the
/// order of the current CUDA stream.
namespace op {
/// - `copy(View to, ConstView from)`
/// - `set_zero(View y)`
/// - `accumulate(View y, ConstView x)`
/// - `scale(View y, double factor)`
/// - `convert_from(View to, floats)`
/// - `convert_to(floats, ConstView from)`
struct elementwise;
/// - `run(View y, ConstView x, double rate, seed, step, micro_step)`
struct dropout;
/// - `run(GemmLayout, View c, ConstView a, ConstView b, Accumulate)`
struct gemm;
/// - `forward(View y, S* rstd, ConstView x, const T* w, double eps)`
/// - `recompute(View y, ConstView x, const T* w, const S* rstd)`
/// - `backward(View grad_input, Accumulate, ConstView grad_output, ConstView x, const T* w,
///   const S* rstd, T* grad_weight, Accumulate, S* workspace)`
/// - `backward_workspace(Index rows, Index columns)`
struct rms_norm;
/// - `run(View x, const S* cosine, const S* sine, heads, half, sequence, Rotation)`
struct rope;
/// - `forward(View o, S* lse, ConstView qkv, HeadLayout, SequenceShape)`
/// - `backward(View grad_qkv, ConstView grad_o, ConstView qkv, ConstView o, const S* lse,
///   HeadLayout, SequenceShape)`
struct attention;
/// - `forward(View out, ConstView gate_up)`
/// - `backward(View grad_gate_up, View out_gradient, ConstView gate_up)`
struct swiglu;
/// as swiglu, with the tanh approximation of GELU; on the CPU alone
struct geglu;
/// - `forward(View y, double cap)`
/// - `backward(View grad, ConstView y, double cap)`; on the CPU alone
struct softcap;
/// - `add(View y, const T* b)`
/// - `gradient(T* grad, Accumulate, ConstView grad_output)`; on the CPU alone
struct bias;
/// See kernels/cpu/dora.hpp; on the CPU.
struct dora;
/// - `forward(View out, tokens, ConstView weight)`
/// - `backward(View gradient, Accumulate, ConstView grad_output, tokens)`
struct embedding;
/// - `expand(View to, Index first, codes, scales, group_scales, float offset)`
/// - `product(GemmLayout, View c, ConstView a, Index rows, Index columns, codes, scales,
///   group_scales, float offset, Accumulate)`; on the CPU alone
struct nf4;
/// - `quantize(MatrixView<uint8_t> codes, float* scales, ConstView from)`
/// - `expand(View to, MatrixView<const uint8_t> codes, const float* scales)`
struct fp8;
/// - `run(View y, codes and scales of x, codes and scales of w, Accumulate)`: false if the device
///   has no such product; not on the CPU
/// - `available()`: whether the device has any; both in kernels/cuda/fp8.hpp
struct fp8_gemm;
/// - type `Loss`
/// - `run(View logits, Loss* losses, targets, ignored, double divisor, bool keep)`
/// - `sum(const Loss* losses, count)`: on a device, a DeferredNumber
struct cross_entropy;
/// - `run(segments, constants)`
struct adamw;
/// - `run(tensors)`: the squared norm of each tensor; waits for the current CUDA stream
/// - `deferred(tensors)`: on a device, the same as DeferredNumbers
struct squared_norms;
}  // namespace op

/// The code of operation `Op` for scalar T in the memory of a backend.
template <class Op, class T, class Backend>
struct kernels {
  static_assert(
      dropbp::detail::always_false<Op, T, Backend>,
      "dropbp: there are no kernels for this (operation, scalar, backend). dropbp::Cpu takes "
      "float, "
      "double and dropbp::BFloat16 and needs nothing; dropbp::Cuda takes float, dropbp::BFloat16 "
      "and dropbp::Half: "
      "include dropbp/kernels/cuda.hpp before the ops; for a backend of your own specialise "
      "dropbp::ops::kernels<Op, T, Backend>.");
};

/// C [m, n] is A B^T (nt: A [m, k], B [n, k]), A B (nn: A [m, k], B [k, n]) or A^T B (tn: A [k, m],
/// B [k, n]). As in BLAS, n is a matrix as stored and t a transposed one.
enum class GemmLayout : std::uint8_t { nt, nn, tn };

/// Direction of a rotation. The backward pass applies the inverse, because rotations are
/// orthogonal.
enum class Rotation { forward, inverse };

/// Batch and sequence length. Token `position` of sequence b is row b * sequence + position of a
/// matrix.
struct SequenceShape {
  Index batch = 1;     ///< number of sequences
  Index sequence = 1;  ///< tokens per sequence
  /// For sequences in which several samples are packed: one number per row of a matrix, the
  /// position in its sequence where the row's sample begins, in [0, position]. Attention looks no
  /// further back. Empty: each sequence is one sample. Host memory that must stay alive until the
  /// backward pass.
  std::span<const std::int32_t> sample_begin = {};
  Index tokens() const noexcept { return batch * sequence; }  ///< rows of a matrix
};

/// Heads in a fused row, which holds the q heads, then the k heads, then the v heads. Query head h
/// uses kv head h / (heads / kv_heads).
struct HeadLayout {
  Index heads = 1;      ///< query heads
  Index kv_heads = 1;   ///< key heads, and as many value heads; divides heads
  Index head_size = 1;  ///< elements per head
  Index window = 0;     ///< keys that a query sees, its own included; 0: all up to its own
  double softcap = 0;   ///< scores s become softcap * tanh(s / softcap); 0: they stay
  /// Whether a device may add gradients in an order that changes from run to run, where that is
  /// faster or takes less memory. The last bits of a run then change too.
  bool any_order = false;
  Index group() const noexcept { return heads / kv_heads; }  ///< query heads that share a kv head
  Index q_width() const noexcept { return heads * head_size; }  ///< elements of all query heads
  /// Elements of all key heads; all value heads have as many.
  Index kv_width() const noexcept { return kv_heads * head_size; }
  /// Elements of a fused row.
  Index qkv_width() const noexcept { return q_width() + 2 * kv_width(); }
};

/// One parameter of an AdamW update: arrays of `size` elements and the factors of this step.
template <class T>
struct AdamWSegment {
  T* value;                      ///< the parameter as the model uses it
  const T* gradient;             ///< gradient of the loss
  Statistic<T>* master;          ///< the value in higher precision; null if T is as precise
  Statistic<T>* first_moment;    ///< running mean of the gradients
  Statistic<T>* second_moment;   ///< running mean of the squared gradients
  std::int64_t size;             ///< elements of each array
  Statistic<T> step_size;        ///< learning rate / (1 - beta1^t)
  Statistic<T> root_correction;  ///< 1 / sqrt(1 - beta2^t)
  Statistic<T> keep;         ///< 1 - learning rate * weight decay; 1 for parameters without decay
  std::int64_t first_chunk;  ///< chunks of all earlier segments; only for device kernels
};

/// The constants that all segments of an update share. S is Statistic<T>.
template <class S>
struct AdamWConstants {
  S beta1;   ///< decay of the first moment
  S rest1;   ///< 1 - beta1, rounded from double
  S beta2;   ///< decay of the second moment
  S rest2;   ///< 1 - beta2, rounded from double
  S eps;     ///< added to the root of the second moment
  S factor;  ///< multiplies the gradients
};

}  // namespace ops
DROPBP_NAMESPACE_END
