// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Which linear maps get adapters, and of which ranks, by patterns over their whole names, as in
// PEFT's LoraConfig.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <dropbp/ops/lora.hpp>

#include "llama/formats/config.hpp"

namespace llama {

namespace ops = dropbp::ops;

/// Regular expressions over names such as "model.layers.0.self_attn.q_proj".
struct LoraPatterns {
  std::optional<std::string> targets;  ///< the whole name matches; none: LoraConfig::targets count
  /// The name's end, from a dot on, matches; the first that does counts.
  std::vector<std::pair<std::string, std::ptrdiff_t>> ranks;
  std::vector<std::pair<std::string, double>> alphas;  ///< likewise

  [[nodiscard]] bool any() const { return targets || !ranks.empty() || !alphas.empty(); }
};

/// The names of all linear maps that can have adapters, from the first block up.
[[nodiscard]] std::vector<std::string> linear_names(const LlamaConfig& config);

/// Puts the names that the patterns select into the adaptation's targets, and what differs from its
/// rank and alpha into its exceptions. Throws std::runtime_error for a pattern that is no regular
/// expression or selects no map at all.
void apply(const LoraPatterns& patterns, ops::LoraConfig& adaptation,
           std::span<const std::string> linears);

}  // namespace llama
