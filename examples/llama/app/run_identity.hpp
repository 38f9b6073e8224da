// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Which run a training checkpoint belongs to.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <dropbp/ops/lora.hpp>

#include "llama/app/data.hpp"
#include "llama/app/options.hpp"
#include "llama/formats/config.hpp"

namespace llama {

namespace ops = dropbp::ops;

/// Everything that determines the bits of a run, as (flag, value): the flags that a resumed run
/// must repeat, and checksums of the tokens and of the frozen weights.
using RunIdentity = std::vector<std::pair<std::string, std::string>>;
[[nodiscard]] RunIdentity identity_of(const Options& options, const LlamaConfig& config,
                                      const TrainingData& data, const ops::LoraConfig& lora,
                                      std::uint32_t base_checksum);
/// The identity of a run with this model.
[[nodiscard]] RunIdentity identity_of(const Options& options, const LlamaConfig& config,
                                      const TrainingData& data, const auto& model) {
  return identity_of(options, config, data, model.lora(), model.base_checksum());
}

}  // namespace llama
