// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// FLOPs of the forward pass of transformer branches. One multiply-add counts as two FLOPs; norms,
// softmax and activations are not counted, as usual. Only ratios matter to the library.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <string>

#include "dropbp/base/error.hpp"

DROPBP_NAMESPACE_BEGIN

/// Sizes of one attention branch. `kv_heads` = 0 means as many as `heads` (multi-head attention);
/// fewer heads are grouped-query attention, 1 is multi-query attention. `causal`: the kernel skips
/// the masked half of the scores.
struct AttentionShape {
  std::size_t batch = 1;      ///< sequences of a step
  std::size_t sequence = 1;   ///< tokens of each
  std::size_t hidden = 1;     ///< width of the residual stream
  std::size_t heads = 1;      ///< query heads
  std::size_t kv_heads = 0;   ///< key and value heads; 0: as many as heads
  bool causal = false;        ///< the masked half of the scores is skipped
  std::size_t head_size = 0;  ///< 0: hidden / heads
  std::size_t window = 0;     ///< keys that a query sees, its own among them; 0: all
};

/// Sizes of one MLP branch with `intermediate` units.
struct MlpShape {
  std::size_t batch = 1;         ///< sequences of a step
  std::size_t sequence = 1;      ///< tokens of each
  std::size_t hidden = 1;        ///< width of the residual stream
  std::size_t intermediate = 1;  ///< units
};

namespace detail {
DROPBP_LAZY
inline double positive_product(const char* what, std::initializer_list<std::size_t> sizes) {
  double product = 1.0;
  for (const std::size_t size : sizes) {
    if (size == 0)
      throw_invalid(std::string(what) + " sizes must be at least 1", "one of them is 0",
                    "pass the sizes of one step");
    product *= static_cast<double>(size);
  }
  return product;
}
}  // namespace detail

/// Attention: 8 b s h^2 for the projections (k and v shrink by kv_heads / heads) + 4 b s^2 h for
/// scores and values (half with `causal`). A head_size replaces the h inside the heads by
/// heads * head_size, a window w < s one s of the scores by w, with `causal` s / 2 by w - w^2 / 2
/// s. Source: the corrected README of the published implementation. Throws std::invalid_argument
/// for a size of 0 or heads that kv_heads does not divide.
DROPBP_LAZY
inline double attention_flops(const AttentionShape& shape) {
  const std::size_t kv_heads = shape.kv_heads == 0 ? shape.heads : shape.kv_heads;
  const double tokens_hidden =
      detail::positive_product("attention", {shape.batch, shape.sequence, shape.hidden});
  if (shape.heads == 0 || shape.heads % kv_heads != 0)
    detail::throw_invalid(
        "heads must be a positive multiple of kv_heads",
        detail::text(shape.heads) + " and " + detail::text(kv_heads) + " were given",
        "let every group of query heads share one kv head");
  const double shared = static_cast<double>(kv_heads) / static_cast<double>(shape.heads);
  const double inner = shape.head_size == 0 ? static_cast<double>(shape.hidden)
                                            : static_cast<double>(shape.heads * shape.head_size);
  const double tokens = tokens_hidden / static_cast<double>(shape.hidden);
  const double projections = 4.0 * tokens_hidden * inner * (1.0 + shared);
  const auto sequence = static_cast<double>(shape.sequence);
  double seen = shape.causal ? sequence / 2.0 : sequence;
  if (const auto window = static_cast<double>(shape.window); window > 0.0 && window < sequence)
    seen = shape.causal ? window - window * window / (2.0 * sequence) : window;
  return projections + 4.0 * tokens * inner * seen;
}

/// MLP with one hidden layer (up, activation, down): 4 b s h m, which is 16 b s h^2 for m = 4 h.
inline double mlp_flops(const MlpShape& shape) {
  return 4.0 * detail::positive_product(
                   "MLP", {shape.batch, shape.sequence, shape.hidden, shape.intermediate});
}

/// SwiGLU (gate, up, down): 6 b s h m.
inline double swiglu_flops(const MlpShape& shape) {
  return 6.0 * detail::positive_product(
                   "SwiGLU", {shape.batch, shape.sequence, shape.hidden, shape.intermediate});
}

DROPBP_NAMESPACE_END
