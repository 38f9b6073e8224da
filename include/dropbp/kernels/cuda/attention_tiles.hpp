// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What both ways to compute attention on a card share: its sizes, and which tile a block works on.
#pragma once

#include "dropbp/backend/cuda/context.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {

/// Tokens are the rows b * sequence + position of a matrix. A row of qkv holds the query heads,
/// then the key heads, then the value heads; query head h uses kv head h / (heads / kv_heads).
struct AttentionShape {
  Index batch;      ///< sequences
  Index sequence;   ///< tokens of each
  Index heads;      ///< query heads
  Index kv_heads;   ///< key heads, and value heads; divides heads
  Index head_size;  ///< elements of a head, at most 128

  DROPBP_HOST_DEVICE Index tokens() const { return batch * sequence; }  ///< rows
  /// Query heads that share a kv head.
  DROPBP_HOST_DEVICE Index group() const { return heads / kv_heads; }
  /// Elements of all query heads.
  DROPBP_HOST_DEVICE Index q_width() const { return heads * head_size; }
  /// Elements of all key heads.
  DROPBP_HOST_DEVICE Index kv_width() const { return kv_heads * head_size; }
  /// A number for each head and token.
  DROPBP_HOST_DEVICE Index statistics() const { return batch * heads * sequence; }
};

namespace detail {

inline constexpr float log2_of_e = 1.44269504088896341f;

/// One head of one sequence, and which tile of its tokens a block works on.
struct AttentionTask {
  Index tile;   ///< of `rows` tokens each
  Index head;   ///< of the query heads, or of the kv heads
  Index batch;  ///< sequence
};

// The tiles of a head lie side by side: blocks that run at the same time read the same keys.
template <class Context>
DROPBP_DEVICE AttentionTask attention_task(Context ctx, Index tiles, Index heads) {
  const Index block = ctx.block();
  return {block % tiles, block / tiles % heads, block / tiles / heads};
}

DROPBP_DEVICE Index least(Index a, Index b) { return a < b ? a : b; }

}  // namespace detail
}  // namespace cuda
DROPBP_NAMESPACE_END
