// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The `adapter_config.json` of adapters in the format of Hugging Face's PEFT.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <dropbp/ops/lora.hpp>

#include "llama/formats/config.hpp"

namespace llama {

namespace ops = dropbp::ops;

/// The same linear maps in canonical form: those of `linears`, which are the model's (see
/// linears_of), each once and in their order; empty for all. Targets that the model does not have
/// are left out, as in PEFT; if `strict` they are an error. Throws std::invalid_argument for that,
/// and if none is left. A list with longer names stays as it is.
[[nodiscard]] std::vector<std::string> canonical_targets(const std::vector<std::string>& targets,
                                                         const std::vector<std::string>& linears,
                                                         bool strict);

/// Everything in the text of an `adapter_config.json` that changes what an adapter computes or
/// trains. Throws std::runtime_error, naming the key, for unsupported settings (biases, initial
/// values that change the base, ...) and for unknown keys, unless their value is null, false or
/// empty. Names and patterns are looked up in `linears`, the model's linear maps (see
/// linear_names).
[[nodiscard]] ops::LoraConfig parse_adapter_config(std::string_view json_text,
                                                   const std::string& what,
                                                   std::span<const std::string> linears);
/// The same from a folder.
[[nodiscard]] ops::LoraConfig load_adapter_config(const std::filesystem::path& folder,
                                                  std::span<const std::string> linears);
/// An `adapter_config.json` that PEFT loads, of an adapter for `model`; `base` becomes
/// `base_model_name_or_path`.
[[nodiscard]] std::string adapter_config_json(const ops::LoraConfig& lora, const std::string& base,
                                              const LlamaConfig& model);

}  // namespace llama
