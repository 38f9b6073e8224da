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

/// The same choice of linear maps in one form: the last parts of their names in the order of
/// ops::adaptable_linears, each once; none for all of them. A list with longer names stays as it
/// is.
[[nodiscard]] std::vector<std::string> canonical_targets(const std::vector<std::string>& targets);

/// Ranks, alphas, dropout and targets from the text of an `adapter_config.json`. What the adapters
/// here cannot represent (DoRA, biases, modules saved whole, ...) is a std::runtime_error that
/// names the key, and so is any key that is not known, unless its value is null, false or empty.
/// Names and patterns are looked up in `linears`, the model's linear maps (linear_names).
[[nodiscard]] ops::LoraConfig parse_adapter_config(std::string_view json_text,
                                                   const std::string& what,
                                                   std::span<const std::string> linears);
/// From a folder.
[[nodiscard]] ops::LoraConfig load_adapter_config(const std::filesystem::path& folder,
                                                  std::span<const std::string> linears);
/// The text that PEFT loads; `base` names the base model, as its `base_model_name_or_path`.
[[nodiscard]] std::string adapter_config_json(const ops::LoraConfig& adaptation,
                                              const std::string& base);

/// Fills the adapters of the model. Throws std::runtime_error for an adapter of another model,
/// naming the tensor and both shapes, and for one of other weights of the same shapes, where it
/// says which: adapters that save_adapter wrote carry their base's checksum, those of other
/// programs fit any. The base must have its weights by then.
template <class T, class Backend>
void load_adapter(const std::filesystem::path& folder, LlamaModel<T, Backend>& model);

/// Writes the adapters alone; see save_folder for what happens when that fails.
template <class T, class Backend>
void save_adapter(const std::filesystem::path& folder, LlamaModel<T, Backend>& model,
                  const std::string& base, DType dtype = DType::f32);

}  // namespace llama
