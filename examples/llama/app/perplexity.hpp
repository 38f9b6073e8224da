// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// How well a model predicts a text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "llama/model/model.hpp"

namespace llama {

struct Prediction {
  std::size_t tokens = 0;  ///< predicted: all but the first
  double nats = 0.0;       ///< -log of their probabilities, summed
  [[nodiscard]] double mean() const { return nats / static_cast<double>(tokens); }
};

/// Cuts the ids into windows of `window` tokens, each with the token before it, so that every token
/// but the first is predicted once, from those before it in its window. The model must have been
/// made for such a window. Throws std::runtime_error for fewer than two ids.
[[nodiscard]] Prediction predict(LlamaModel<float>& model, std::span<const std::int32_t> ids,
                                 std::size_t window);

}  // namespace llama
