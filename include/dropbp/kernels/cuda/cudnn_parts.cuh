// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// How attention by cuDNN is divided into calls that need less memory each: host arithmetic only.
#if !defined(__CUDACC__)
#error "dropbp: cudnn_parts.cuh is for .cu files; other files include dropbp/dropbp.hpp"
#endif
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "dropbp/kernels/cuda/cudnn_graph.cuh"

DROPBP_NAMESPACE_BEGIN
namespace cuda {
namespace detail {

/// "1.5 GiB"
inline std::string text_of_bytes(std::size_t bytes) {
  const bool large = bytes >= std::size_t{1} << 30;
  const std::size_t unit = std::size_t{1} << (large ? 30 : 20),
                    tenths = bytes / unit * 10 + (bytes % unit * 10 + unit / 2) / unit;
  return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) +
         (large ? " GiB" : " MiB");
}

/// The memory that attention may take for the length of a call, in bytes. Except on Blackwell, the
/// backward pass in a fixed order stores the gradient of the scores: 2 bytes per head and pair of
/// tokens.
struct AttentionBudget {
  std::size_t free;                                               ///< on the device
  std::size_t below = (std::numeric_limits<std::size_t>::max)();  ///< so much could not be had

  /// The other half is for the rest of a step.
  std::size_t most() const { return (std::min)(free / 2, below - 1); }
  /// More is taken only where no part needs less, because memory is what saved activations take.
  std::size_t modest() const { return (std::min)(most(), std::size_t{1} << 30); }
};

/// The shapes of one call that divide a whole shape, largest first: all of it, one sequence, some
/// kv heads of a sequence with their query heads and, in the backward pass, some query heads of one
/// kv head.
inline std::vector<AttentionShape> attention_parts(const AttentionKey& key) {
  const AttentionShape& whole = key.shape;
  std::vector<AttentionShape> parts{whole};
  const auto add = [&](Index heads, Index kv_heads) {
    const AttentionShape part{1, whole.sequence, heads, kv_heads, whole.head_size};
    // The statistics of the next part must begin at a multiple of 16 bytes.
    if (part.statistics() % 4 == 0) parts.push_back(part);
  };
  for (Index pieces = whole.batch == 1 ? 2 : 1; pieces <= whole.kv_heads; ++pieces)
    if (whole.kv_heads % pieces == 0) add(whole.heads / pieces, whole.kv_heads / pieces);
  for (Index pieces = 2; key.backward && pieces <= whole.group(); ++pieces)
    if (whole.group() % pieces == 0) add(whole.group() / pieces, 1);
  return parts;
}

/// Calls that share a kv head: each has its own gradients of keys and values, added at the end.
inline Index calls_for_kv_head(const AttentionShape& whole, const AttentionShape& part) {
  return whole.group() / part.group();
}

/// The key of one call.
inline AttentionKey key_of_part(const AttentionKey& key, const AttentionShape& part) {
  AttentionKey result = key;
  result.shape = part;
  if (calls_for_kv_head(key.shape, part) > 1) result.grad_kv_stride = part.head_size;
  return result;
}

/// Where a call's own memory lies, behind the workspace of cuDNN. Offsets and sizes in bytes.
struct AttentionScratch {
  std::size_t grad_q_sums;  ///< floats [sequences, heads, tokens, head_size], in any order
  std::size_t grad_k;       ///< [calls for a kv head, tokens, head_size] of the scalar type
  std::size_t grad_v;       ///< likewise
  std::size_t end;          ///< size of all

  AttentionScratch(const AttentionKey& key, const AttentionShape& part, std::size_t workspace) {
    const auto aligned = [](std::size_t bytes) { return (bytes + 255) / 256 * 256; };
    const Index calls = calls_for_kv_head(key.shape, part);
    const auto sums = static_cast<std::size_t>(
        key.backward && key.any_order ? part.statistics() * part.head_size * 4 : 0);
    const auto gradients =
        static_cast<std::size_t>(calls > 1 ? calls * part.sequence * part.head_size * 2 : 0);
    grad_q_sums = aligned(workspace);
    grad_k = grad_q_sums + aligned(sums);
    grad_v = grad_k + aligned(gradients);
    end = sums + gradients == 0 ? workspace : grad_v + gradients;
  }
};

/// The addresses of all tensors. The forward pass writes o and lse; its grad_o, grad_qkv and delta
/// are null.
struct AttentionMemory {
  const void* qkv;
  const void* o;
  const float* lse;
  const void* grad_o;
  const void* grad_qkv;
  const float* delta;
};

/// The arguments of one run of a graph. cuDNN takes non-const pointers, also to tensors that it
/// only reads.
struct AttentionCall {
  std::int64_t ids[last_id] = {};
  void* pointers[last_id] = {};
  std::size_t count = 0;

  void add(AttentionId id, const void* pointer) {
    ids[count] = id;
    pointers[count++] = const_cast<void*>(pointer);
  }
};

/// Calls `run` with the memory of each part, whose scratch memory begins at `workspace`. Calls
/// join(to, parts) after the calls that share a kv head, for the rows of its keys' gradients in
/// grad_qkv, and for those of its values.
template <class Run, class Join>
void for_each_part(const AttentionKey& key, const AttentionShape& part,
                   const AttentionMemory& memory, const AttentionScratch& scratch, void* workspace,
                   Run run, Join join) {
  const AttentionShape& shape = key.shape;
  const float scale = attention_scale(shape), masked = -std::numeric_limits<float>::infinity(),
              one = 1.0f;
  const Index calls = calls_for_kv_head(shape, part);
  const auto at = [](const void* data, std::size_t bytes) {
    return static_cast<char*>(const_cast<void*>(data)) + bytes;
  };
  const auto run_part = [&](Index sequence, Index kv_head, Index piece) {
    const Index q = kv_head * shape.group() + piece * part.heads;
    const auto head = [&](const void* data, Index stride, Index number) {
      return at(data, static_cast<std::size_t>(
                          2 * (sequence * shape.sequence * stride + number * shape.head_size)));
    };
    const auto k_of = [&](const void* data, Index stride) {
      return head(data, stride, shape.heads + kv_head);
    };
    const auto v_of = [&](const void* data, Index stride) {
      return head(data, stride, shape.heads + shape.kv_heads + kv_head);
    };
    const Index statistic = (sequence * shape.heads + q) * shape.sequence;
    AttentionCall call;
    call.add(q_id, head(memory.qkv, key.qkv_stride, q));
    call.add(k_id, k_of(memory.qkv, key.qkv_stride));
    call.add(v_id, v_of(memory.qkv, key.qkv_stride));
    call.add(o_id, head(memory.o, key.o_stride, q));
    call.add(lse_id, memory.lse + statistic);
    call.add(scale_id, &scale);
    call.add(masked_id, &masked);
    if (!key.backward) {
      run(call);
      return;
    }
    const auto own = static_cast<std::size_t>(2 * piece * shape.sequence * shape.head_size);
    void* const grad_k = k_of(memory.grad_qkv, key.grad_qkv_stride);
    void* const grad_v = v_of(memory.grad_qkv, key.grad_qkv_stride);
    call.add(grad_o_id, head(memory.grad_o, key.grad_o_stride, q));
    call.add(grad_q_id, head(memory.grad_qkv, key.grad_qkv_stride, q));
    call.add(grad_k_id, calls == 1 ? grad_k : at(workspace, scratch.grad_k + own));
    call.add(grad_v_id, calls == 1 ? grad_v : at(workspace, scratch.grad_v + own));
    call.add(delta_id, memory.delta + statistic);
    if (key.any_order) call.add(grad_q_sums_id, at(workspace, scratch.grad_q_sums));
    call.add(one_id, &one);
    run(call);
    if (calls == 1 || piece + 1 < calls) return;
    join(grad_k, at(workspace, scratch.grad_k));
    join(grad_v, at(workspace, scratch.grad_v));
  };
  for (Index sequence = 0; sequence < shape.batch; sequence += part.batch)
    for (Index kv_head = 0; kv_head < shape.kv_heads; kv_head += part.kv_heads)
      for (Index piece = 0; piece < calls; ++piece) run_part(sequence, kv_head, piece);
}

}  // namespace detail
}  // namespace cuda
DROPBP_NAMESPACE_END
