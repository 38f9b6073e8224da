// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Forward passes for writing text: the logits of the next token, with or without what was computed
// for the tokens before.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "llama/model/model.hpp"

namespace llama {

/// Keeps keys and values, so that each call computes its own tokens alone. On the CPU.
template <class T>
class CachedForward {
 public:
  /// For up to `most_tokens` in all, which the model must have been made for
  /// (std::invalid_argument). The model must outlive this; dropout is off in each call.
  CachedForward(LlamaModel<T>& model, Index most_tokens);

  /// The logits [vocabulary] of the token that follows the last of `ids`, which follow those of
  /// the calls before. Valid until the next call. Throws std::invalid_argument for no ids, for one
  /// outside of the vocabulary and for too many in all; the object is then as it was.
  std::span<const float> next(std::span<const std::int32_t> ids);

  [[nodiscard]] Index tokens() const noexcept { return tokens_; }  ///< so far
  /// Forgets all tokens but the first `tokens` of them.
  void keep_first(Index tokens) noexcept { tokens_ = (std::min)(tokens_, tokens); }

 private:
  LlamaModel<T>& model_;
  Index most_tokens_;
  Index tokens_ = 0;
  std::vector<ops::Matrix<T>> caches_;  // one a block, see AttentionBranch::forward_cached
  std::vector<float> logits_;
};

/// The same face without memory of its own: each call computes all tokens again. On any backend.
template <class T, class Backend>
class WholeForward {
 public:
  explicit WholeForward(LlamaModel<T, Backend>& model) : model_(model) {}

  /// As CachedForward's.
  std::span<const float> next(std::span<const std::int32_t> ids);

 private:
  LlamaModel<T, Backend>& model_;
  std::vector<std::int32_t> ids_;
  std::vector<float> logits_;
};

extern template class CachedForward<float>;
extern template class CachedForward<double>;
extern template class WholeForward<float, dropbp::Cpu>;
extern template class WholeForward<double, dropbp::Cpu>;

}  // namespace llama
