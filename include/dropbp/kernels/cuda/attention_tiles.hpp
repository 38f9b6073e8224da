// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What both implementations of attention on CUDA share: the sizes, and the tile of a block.
#pragma once

#include <type_traits>

#include "dropbp/backend/cuda/context.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {

/// Sizes of attention. Token `position` of sequence b is row b * sequence + position of a matrix. A
/// row of qkv holds the query heads, then the key heads, then the value heads. Query head h uses kv
/// head h / (heads / kv_heads).
struct AttentionShape {
  Index batch;      ///< number of sequences
  Index sequence;   ///< tokens per sequence
  Index heads;      ///< query heads
  Index kv_heads;   ///< key heads, and as many value heads; divides heads
  Index head_size;  ///< elements per head, at most 128

  DROPBP_HOST_DEVICE Index tokens() const { return batch * sequence; }  ///< rows of a matrix
  /// Query heads that share a kv head.
  DROPBP_HOST_DEVICE Index group() const { return heads / kv_heads; }
  /// Elements of all query heads.
  DROPBP_HOST_DEVICE Index q_width() const { return heads * head_size; }
  /// Elements of all key heads.
  DROPBP_HOST_DEVICE Index kv_width() const { return kv_heads * head_size; }
  /// Number of statistics: one per head and token.
  DROPBP_HOST_DEVICE Index statistics() const { return batch * heads * sequence; }
};

namespace detail {

inline constexpr float log2_of_e = 1.44269504088896341f;

/// The work of a block: one tile of the tokens of one head in one sequence.
struct AttentionTask {
  Index tile;   ///< index of the tile, of `rows` tokens each
  Index head;   ///< index of the query head or kv head
  Index batch;  ///< index of the sequence
};

// Neighbouring blocks work on tiles of the same head, so blocks that run at the same time read the
// same keys.
template <class Context>
DROPBP_DEVICE AttentionTask attention_task(Context ctx, Index tiles, Index heads) {
  const Index block = ctx.block();
  return {block % tiles, block / tiles % heads, block / tiles / heads};
}

template <class T>
DROPBP_DEVICE T least(std::type_identity_t<T> a, T b) {
  return a < b ? a : b;
}

}  // namespace detail
}  // namespace cuda
DROPBP_NAMESPACE_END
