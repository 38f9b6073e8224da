// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A model as llama.cpp reads it: names, order of rows and metadata of its architecture "llama".
#pragma once

#include <filesystem>
#include <span>

#include "llama/formats/config.hpp"
#include "llama/formats/model_folder.hpp"

namespace llama {

inline constexpr const char* gguf_name = "model.gguf";

/// Throws std::runtime_error, naming it, for a trait of the model's family that a GGUF file written
/// here cannot say: llama.cpp would compute another model.
void require_gguf_traits(const LlamaConfig& config);

/// Writes weights with Hugging Face's names, and the tokenizer among the companions, as one GGUF
/// file: matrices in `dtype` (F32, F16 or BF16), norms in F32. The rows of q_proj and k_proj are
/// put in the order of its rotation, which turns neighbours where Hugging Face turns halves of a
/// head. Throws as require_gguf_traits, write_gguf and
/// gguf_tokenizer do.
void save_gguf(const std::filesystem::path& path, const LlamaConfig& config,
               std::span<const NamedTensor> tensors, DType dtype, const Companions& companions);

}  // namespace llama
