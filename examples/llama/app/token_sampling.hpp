// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Drawing tokens from a model's logits, and the loop that writes a text of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace llama {

struct TokenSampling {
  double temperature = 0.8;  ///< divides the logits; 0 takes the most probable token
  double top_p = 0.95;       ///< least share of the probability that may be drawn from, in (0, 1]
  std::uint64_t seed = 1;
};

/// The id drawn from softmax(logits / temperature), cut to the most probable tokens that together
/// have at least top_p (Holtzman et al., "The Curious Case of Neural Text Degeneration", ICLR
/// 2020). Of equally probable ones the lower id counts as more probable. A pure function of the
/// logits, the sampling and `number`, which counts the draws. Throws std::runtime_error for logits
/// that are not finite.
[[nodiscard]] std::int32_t sample_token(std::span<const float> logits,
                                        const TokenSampling& sampling, std::uint64_t number);

/// Where a text ends.
struct TextEnd {
  std::size_t most_tokens = 64;    ///< without those of the prompt
  std::vector<std::int32_t> ends;  ///< ids that end it; they are not part of it
};

/// Completes the prompt, which has at least one token: `next(ids)` gives the logits after more ids,
/// as CachedForward::next. `on_token`, unless it is empty, is called with each new id; returning
/// false ends the text. The result has the new ids alone.
std::vector<std::int32_t> complete(
    std::span<const std::int32_t> prompt, const TokenSampling& sampling, const TextEnd& end,
    const std::function<std::span<const float>(std::span<const std::int32_t>)>& next,
    const std::function<bool(std::int32_t)>& on_token = {});

}  // namespace llama
