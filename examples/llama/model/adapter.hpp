// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Adapters in the format of Hugging Face's PEFT: a folder with `adapter_config.json` and
// `adapter_model.safetensors`.
#pragma once

#include <filesystem>
#include <string>

#include "llama/formats/adapter_config.hpp"
#include "llama/model/model.hpp"

namespace llama {

/// Fills the adapters of the model, whose weights must be loaded, and what it trains whole beside
/// them. Throws std::runtime_error, naming the tensor and both shapes, for an adapter of another
/// model, and for one that has the embedding and the output layer apart where the model has one for
/// both. Adapters written by save_adapter
/// also carry their base's checksum and must match it; those of other programs have none.
template <class T, class Backend>
void load_adapter(const std::filesystem::path& folder, LlamaModel<T, Backend>& model);

/// Writes the adapters and what is trained whole beside them; see save_folder for the errors.
template <class T, class Backend>
void save_adapter(const std::filesystem::path& folder, LlamaModel<T, Backend>& model,
                  const std::string& base, DType dtype = DType::f32);

}  // namespace llama
