// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Causal grouped-query attention in tiles with an online softmax, and its backward pass in two
// kernels that add in a fixed order, without atomics. Source: Dao, "FlashAttention-2" (arXiv
// 2307.08691). BFloat16 goes through the tensor cores, float and Half through float multiply-adds.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

#include "dropbp/base/error.hpp"
#include "dropbp/kernels/cuda/attention_code.hpp"
#include "dropbp/kernels/cuda/attention_fma.hpp"
#include "dropbp/kernels/cuda/attention_mma.hpp"
#include "dropbp/kernels/cuda/attention_mma_backward.hpp"
#include "dropbp/kernels/cuda/backend.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {
namespace detail {

/// delta = the sum of grad_o * o over a head. One warp per head and token.
template <class T>
struct AttentionDelta {
  static constexpr const char* name = "attention_delta";
  static constexpr unsigned threads = 256;
  static constexpr unsigned min_blocks = 1;

  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, float* delta, Rows<const T> grad_o, Rows<const T> o,
                                AttentionShape shape, bool vectorised) const {
    const Index task = static_cast<Index>(ctx.block()) * (threads / 32) + ctx.thread() / 32;
    const unsigned lane = ctx.thread() % 32;
    if (task >= shape.statistics()) return;  // the whole warp returns
    const Index token = task / shape.heads, head = task % shape.heads;
    const T* const x = grad_o.row(token) + head * shape.head_size;
    const T* const y = o.row(token) + head * shape.head_size;
    float sum = 0.0f;
    if (vectorised) {
      if (4 * lane < shape.head_size) {
        const Pack<T, 4> a = ctx.template load<T, 4>(x + 4 * lane),
                         b = ctx.template load<T, 4>(y + 4 * lane);
        DROPBP_UNROLL
        for (unsigned i = 0; i < 4; ++i) sum += to_float(a.values[i]) * to_float(b.values[i]);
      }
    } else {
      for (Index i = lane; i < shape.head_size; i += 32)
        sum += to_float(ctx.template load<T, 1>(x + i).values[0]) *
               to_float(ctx.template load<T, 1>(y + i).values[0]);
    }
    sum = warp_sum(ctx, sum);
    if (lane == 0)
      delta[(token / shape.sequence * shape.heads + head) * shape.sequence +
            token % shape.sequence] = sum;
  }
};

template <class T, unsigned size>
using AttentionForward = std::conditional_t<std::is_same_v<T, BFloat16>, AttentionForwardMma<size>,
                                            AttentionForwardFma<T, size>>;
template <class T, unsigned size>
using AttentionBackwardQueries =
    std::conditional_t<std::is_same_v<T, BFloat16>, AttentionBackwardQueriesMma<size>,
                       AttentionBackwardQueriesFma<T, size>>;
template <class T, unsigned size>
using AttentionBackwardKeys =
    std::conditional_t<std::is_same_v<T, BFloat16>, AttentionBackwardKeysMma<size>,
                       AttentionBackwardKeysFma<T, size>>;

inline void require_attention(const AttentionShape& shape) {
  const auto number = [](Index n) { return std::to_string(n); };
  constexpr Index longest = Index{1} << 30;  // kernels count the tokens of a sequence in int
  if (shape.batch < 0 || shape.sequence < 0 || shape.sequence > longest || shape.kv_heads < 1 ||
      shape.heads < 1 || shape.heads % shape.kv_heads != 0 || shape.head_size < 1 ||
      shape.head_size > 128)
    dropbp::detail::throw_invalid(
        "attention on a CUDA device needs heads of 1 to 128 elements, a number of query heads that "
        "the kv heads divide, and sequences of at most 2^30 tokens",
        number(shape.heads) + " heads of " + number(shape.head_size) + " elements, " +
            number(shape.kv_heads) + " kv heads, " + number(shape.batch) + " sequences of " +
            number(shape.sequence) + " tokens were given",
        "choose another number of heads, or use the CPU");
}

/// Calls `run` with a constant: the smallest size >= head_size that has kernels.
template <class Run>
void with_head_size(Index head_size, Run run) {
  if (head_size <= 32)
    run(std::integral_constant<unsigned, 32>{});
  else if (head_size <= 64)
    run(std::integral_constant<unsigned, 64>{});
  else if (head_size <= 96)
    run(std::integral_constant<unsigned, 96>{});
  else
    run(std::integral_constant<unsigned, 128>{});
}

/// One block per tile of each head of each sequence.
inline Grid attention_grid(const AttentionShape& shape, Index heads, Index tile,
                           std::size_t shared_bytes) {
  return {.x = static_cast<unsigned>(shape.batch * heads * divide_up(shape.sequence, tile)),
          .y = 1,
          .z = 1,
          .shared_bytes = shared_bytes};
}

inline float attention_scale(const AttentionShape& shape) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_size)));
}

}  // namespace detail

/// For each head of each sequence: o [tokens, heads * head_size] = softmax(q k^T / sqrt(head_size),
/// causal) v. The heads q and k in qkv [tokens, (heads + 2 kv_heads) * head_size] are already
/// rotated. lse [batch, heads, sequence] is the logarithm of the softmax's denominators. Throws
/// std::invalid_argument for heads of more than 128 elements, and if kv_heads does not divide
/// heads.
template <class Launcher, class T>
void attention_forward(Launcher& launch, Rows<T> o, float* lse,
                       std::type_identity_t<Rows<const T>> qkv, const AttentionShape& shape) {
  detail::require_attention(shape);
  if (shape.statistics() == 0) return;
  const bool vectorised = is_vectorizable(qkv, shape.tokens(), shape.head_size) &&
                          is_vectorizable(o, shape.tokens(), shape.head_size);
  detail::with_head_size(shape.head_size, [&](auto size) {
    using Body = detail::AttentionForward<T, size()>;
    launch(detail::attention_grid(shape, shape.heads, Body::tile, Body::shared_bytes), Body{}, o,
           lse, qkv, shape, detail::attention_scale(shape), vectorised);
  });
}

/// Bytes of the scratch memory of attention_backward: one float per head and token.
inline std::size_t attention_workspace(const AttentionShape& shape) {
  return static_cast<std::size_t>(shape.statistics()) * sizeof(float);
}

/// Writes every element of grad_qkv [tokens, (heads + 2 kv_heads) * head_size], given grad_o, the
/// input qkv of the forward pass and its results o and lse. `delta` is scratch memory of
/// attention_workspace(shape) bytes. Throws what attention_forward throws.
template <class Launcher, class T>
void attention_backward(Launcher& launch, Rows<T> grad_qkv,
                        std::type_identity_t<Rows<const T>> grad_o,
                        std::type_identity_t<Rows<const T>> qkv,
                        std::type_identity_t<Rows<const T>> o, const float* lse, float* delta,
                        const AttentionShape& shape) {
  detail::require_attention(shape);
  if (shape.statistics() == 0) return;
  const auto can = [&](auto rows) {
    return is_vectorizable(rows, shape.tokens(), shape.head_size);
  };
  const bool vectorised = can(qkv) && can(o) && can(grad_o) && can(grad_qkv);
  using Delta = detail::AttentionDelta<T>;
  launch(Grid{.x = static_cast<unsigned>(divide_up(shape.statistics(), Delta::threads / 32))},
         Delta{}, delta, grad_o, o, shape, vectorised);
  const float scale = detail::attention_scale(shape);
  detail::with_head_size(shape.head_size, [&](auto size) {
    using Keys = detail::AttentionBackwardKeys<T, size()>;
    using Queries = detail::AttentionBackwardQueries<T, size()>;
    const auto* const constant = static_cast<const float*>(delta);
    launch(detail::attention_grid(shape, shape.kv_heads, Keys::tile, Keys::shared_bytes), Keys{},
           grad_qkv, grad_o, qkv, lse, constant, shape, scale, vectorised);
    launch(detail::attention_grid(shape, shape.heads, Queries::tile, Queries::shared_bytes),
           Queries{}, grad_qkv, grad_o, qkv, lse, constant, shape, scale, vectorised);
  });
}

}  // namespace cuda

/// Attention by an external library, which is tried before the kernels above. Specialised if there
/// is such a library (cudnn.cuh). The functions do nothing if the library does not support the
/// shape, and say why. Arguments as in cuda::attention_forward and cuda::attention_backward.
template <class Backend, class T>
struct device_attention {
  /// Computes o and lse from qkv.
  static LibraryAttention forward(cuda::Rows<T>, float*, cuda::Rows<const T>,
                                  const cuda::AttentionShape&) {
    return {false, none};
  }
  /// Computes grad_qkv from grad_o, qkv, o and lse. The non-const pointer is scratch memory. With
  /// `any_order`, sums may be added in an order that changes from call to call.
  static LibraryAttention backward(cuda::Rows<T>, cuda::Rows<const T>, cuda::Rows<const T>,
                                   cuda::Rows<const T>, const float*, float*,
                                   const cuda::AttentionShape&, bool /*any_order*/) {
    return {false, none};
  }

 private:
  static constexpr const char* none = sizeof(T) == 2 ? "this program was built without cuDNN"
                                                     : "cuDNN computes in 16-bit numbers only";
};

namespace ops {

/// See kernels/cpu/attention.hpp. Launches into the current CUDA stream.
template <cuda::Scalar T, cuda::BodyBackend Backend>
struct kernels<op::attention, T, Backend> {
  using View = MatrixView<T, Backend>;             ///< of outputs
  using ConstView = MatrixView<const T, Backend>;  ///< of inputs

  /// Returns the code that has run.
  static AttentionCode forward(View o, float* lse, ConstView qkv, const HeadLayout& layout,
                               const SequenceShape& shape,
                               AttentionCode wanted = AttentionCode::library);
  /// Returns the code that has run.
  static AttentionCode backward(View grad_qkv, ConstView grad_o, ConstView qkv, ConstView o,
                                const float* lse, const HeadLayout& layout,
                                const SequenceShape& shape,
                                AttentionCode wanted = AttentionCode::library);

 private:
  // What the library did, or why it was not asked; also in the notes.
  template <class Try>
  static LibraryAttention by_library(AttentionCode wanted, const cuda::AttentionShape& sizes,
                                     bool backward, const Try& attempt) {
    if (sizes.statistics() == 0) return {};
    LibraryAttention library = wanted == AttentionCode::own
                                   ? LibraryAttention{false, "the caller asked for them"}
                                   : attempt();
    detail::AttentionLog<Backend>::instance().add(sizes, detail::scalar_name<T>, backward, library);
    return library;
  }

  // Throws std::invalid_argument for masks that only the CPU's kernels have.
  static cuda::AttentionShape sizes_of(const HeadLayout& layout, const SequenceShape& shape) {
    if (layout.softcap != 0.0)
      dropbp::detail::throw_invalid(
          "attention on a CUDA device has no soft cap of its scores",
          "a cap of " + dropbp::detail::text(layout.softcap) + " was given",
          "set softcap to 0, or use the CPU");
    if (!shape.sample_begin.empty() || layout.window != 0)
      dropbp::detail::throw_invalid(
          "attention on a CUDA device needs sequences of one sample and queries that see all keys "
          "up to their own",
          shape.sample_begin.empty() ? "a window of " + std::to_string(layout.window) + " was given"
                                     : "sequences with packed samples were given",
          "set window to 0 and leave sample_begin empty, or use the CPU");
    return {.batch = shape.batch,
            .sequence = shape.sequence,
            .heads = layout.heads,
            .kv_heads = layout.kv_heads,
            .head_size = layout.head_size};
  }
};

template <cuda::Scalar T, cuda::BodyBackend Backend>
AttentionCode kernels<op::attention, T, Backend>::forward(View o, float* lse, ConstView qkv,
                                                          const HeadLayout& layout,
                                                          const SequenceShape& shape,
                                                          AttentionCode wanted) {
  const cuda::AttentionShape sizes = sizes_of(layout, shape);
  const LibraryAttention library = by_library(wanted, sizes, false, [&] {
    return device_attention<Backend, T>::forward(cuda::rows_of(o), lse, cuda::rows_of(qkv), sizes);
  });
  if (library.ran) return AttentionCode::library;
  auto launch = device_launcher<Backend>::current();
  cuda::attention_forward<decltype(launch), T>(launch, cuda::rows_of(o), lse, cuda::rows_of(qkv),
                                               sizes);
  return AttentionCode::own;
}

template <cuda::Scalar T, cuda::BodyBackend Backend>
AttentionCode kernels<op::attention, T, Backend>::backward(
    View grad_qkv, ConstView grad_o, ConstView qkv, ConstView o, const float* lse,
    const HeadLayout& layout, const SequenceShape& shape, AttentionCode wanted) {
  const cuda::AttentionShape sizes = sizes_of(layout, shape);
  Matrix<float, Backend> delta(shape.batch * layout.heads, shape.sequence);
  const LibraryAttention library = by_library(wanted, sizes, true, [&] {
    return device_attention<Backend, T>::backward(cuda::rows_of(grad_qkv), cuda::rows_of(grad_o),
                                                  cuda::rows_of(qkv), cuda::rows_of(o), lse,
                                                  delta.data(), sizes, layout.any_order);
  });
  if (library.ran) return AttentionCode::library;
  auto launch = device_launcher<Backend>::current();
  cuda::attention_backward<decltype(launch), T>(launch, cuda::rows_of(grad_qkv),
                                                cuda::rows_of(grad_o), cuda::rows_of(qkv),
                                                cuda::rows_of(o), lse, delta.data(), sizes);
  return AttentionCode::own;
}

}  // namespace ops
DROPBP_NAMESPACE_END
