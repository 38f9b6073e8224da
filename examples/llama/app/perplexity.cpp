// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "llama/app/perplexity.hpp"

#include <algorithm>
#include <stdexcept>

#include <fmt/format.h>

namespace llama {

Prediction predict(LlamaModel<float>& model, std::span<const std::int32_t> ids,
                   std::size_t window) {
  if (ids.size() < 2)
    throw std::runtime_error(fmt::format(
        "a text must have at least 2 tokens, or none is predicted, but it has {}; give more text",
        ids.size()));
  dropbp::DropBPHandler handler(model, {.drop_rate = 0.0});
  handler.begin_evaluation();
  model.set_micro_step({.training = false});
  Prediction prediction;
  for (std::size_t begin = 0; begin + 1 < ids.size(); begin += window) {
    const std::size_t count = std::min(window, ids.size() - 1 - begin);
    const auto inputs = ids.subspan(begin, count), labels = ids.subspan(begin + 1, count);
    Batch batch{.shape = {1, static_cast<Index>(count)},
                .inputs = {inputs.begin(), inputs.end()},
                .labels = {labels.begin(), labels.end()},
                .divisor = 1.0};
    prediction.nats += model.loss(batch);
    prediction.tokens += count;
  }
  return prediction;
}

}  // namespace llama
