// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Adapters in the format of Hugging Face's PEFT: a folder with `adapter_config.json` and
// `adapter_model.safetensors`.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <dropbp/ops/lora.hpp>

#include "llama/model/model.hpp"

namespace llama {

/// The same linear maps in canonical form: those of `linears`, which are the model's (see
/// linears_of), each once and in their order; empty for all. Targets that the model does not have
/// are left out, as in PEFT; if `strict` they are an error. Throws std::invalid_argument for that,
/// and if none is left. A list with longer names stays as it is.
[[nodiscard]] std::vector<std::string> canonical_targets(const std::vector<std::string>& targets,
                                                         const std::vector<std::string>& linears,
                                                         bool strict);

/// Ranks, alphas, dropout and targets from the text of an `adapter_config.json`. Throws
/// std::runtime_error, naming the key, for unsupported settings (DoRA, biases, fully saved modules,
/// ...) and for unknown keys, unless their value is null, false or empty. Names and patterns are
/// looked up in `linears`, the model's linear maps (see linear_names).
[[nodiscard]] ops::LoraConfig parse_adapter_config(std::string_view json_text,
                                                   const std::string& what,
                                                   std::span<const std::string> linears);
/// The same from a folder.
[[nodiscard]] ops::LoraConfig load_adapter_config(const std::filesystem::path& folder,
                                                  std::span<const std::string> linears);
/// An `adapter_config.json` that PEFT loads; `base` becomes `base_model_name_or_path`. `linears`
/// are the last parts of the names of all the model's linear maps.
[[nodiscard]] std::string adapter_config_json(const ops::LoraConfig& lora, const std::string& base,
                                              const std::vector<std::string>& linears);

/// Fills the adapters of the model, whose weights must be loaded. Throws std::runtime_error, naming
/// the tensor and both shapes, for an adapter of another model. Adapters written by save_adapter
/// also carry their base's checksum and must match it; those of other programs have none.
template <class T, class Backend>
void load_adapter(const std::filesystem::path& folder, LlamaModel<T, Backend>& model);

/// Writes the adapters only; see save_folder for the errors.
template <class T, class Backend>
void save_adapter(const std::filesystem::path& folder, LlamaModel<T, Backend>& model,
                  const std::string& base, DType dtype = DType::f32);

}  // namespace llama
