// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Which options go together.
#pragma once

#include <CLI/CLI.hpp>
#include <vector>

#include "llama/app/options.hpp"

namespace llama {

/// Flags whose combination is checked after the parse.
struct Given {
  CLI::Option* token_type;
  std::vector<CLI::Option*> of_samples;  ///< that need samples
  CLI::Option* steps;
  CLI::Option* epochs;
  CLI::Option* vocabulary;
  CLI::Option* allocation;
  CLI::Option* sampling;
  std::vector<CLI::Option*> adapters;       ///< that need --mode lora or qlora
  std::vector<CLI::Option*> adapter_shape;  ///< that --adapter decides
  CLI::Option* lora_targets;
  CLI::Option* lora_targets_pattern;
  CLI::Option* decay;
  CLI::Option* final_learning_rate;
  CLI::Option* out_dtype;
  CLI::Option* out_format;
  CLI::Option* max_shard_size;
  CLI::Option* checkpoint_every;
  std::vector<CLI::Option*> shape;
};

/// The sizes of a new model, completed from other options.
[[nodiscard]] LlamaConfig shape_of(const Options& options);

/// Throws UsageError for the first combination that is refused.
void check_combinations(const Options& options, const Given& given);

}  // namespace llama
