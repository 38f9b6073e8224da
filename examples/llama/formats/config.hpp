// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The shape of a LLaMA-style model and its Hugging Face `config.json`.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace llama {

struct LlamaConfig {
  std::ptrdiff_t vocabulary = 256;    ///< token ids are 0 .. vocabulary - 1
  std::ptrdiff_t hidden = 256;        ///< width of the residual stream
  std::ptrdiff_t intermediate = 688;  ///< width inside SwiGLU
  std::ptrdiff_t layers = 4;          ///< blocks; each is two branches, attention and MLP
  std::ptrdiff_t heads = 4;           ///< query heads
  std::ptrdiff_t kv_heads = 4;  ///< key and value heads, each shared by heads / kv_heads neighbours
  double norm_epsilon = 1e-6;
  double rope_theta = 10000.0;
  bool tie_embeddings = false;  ///< the output layer is the embedding
  std::ptrdiff_t max_positions =
      2048;  ///< kept for other readers of config.json; nothing here depends on it

  [[nodiscard]] std::ptrdiff_t head_size() const { return hidden / heads; }
  bool operator==(const LlamaConfig&) const = default;
};

/// What is wrong with `config`, as a sentence; none if nothing is.
[[nodiscard]] std::optional<std::string> problem_of(const LlamaConfig& config);
/// Throws std::invalid_argument with that sentence.
void validate(const LlamaConfig& config);
/// Numbers in all weight tensors. Needs a valid config.
[[nodiscard]] std::ptrdiff_t parameter_count(const LlamaConfig& config);

/// From the text of a `config.json`; absent keys have Hugging Face's defaults. What this model
/// cannot represent (rope_scaling, biases, another activation, ...) is a std::runtime_error naming
/// the key, and so is any key that is not known to be harmless, unless its value is null, false or
/// empty. `rope_theta` may be at the top, in `rope_scaling` and in `rope_parameters`, but not with
/// two values. `what` names the text.
[[nodiscard]] LlamaConfig parse_config(std::string_view json_text, const std::string& what);
[[nodiscard]] LlamaConfig read_config(const std::filesystem::path& path);

/// The text of a `config.json` that Hugging Face transformers loads as LlamaForCausalLM, with the
/// given dtype for `torch_dtype`, or `dtype` where `base` has that. `base` is the text of the
/// config.json that the model began with, or empty: its other keys are carried (those of tokens,
/// generation, provenance).
[[nodiscard]] std::string config_json(const LlamaConfig& config, std::string_view dtype = "float32",
                                      std::string_view base = {});
/// Names of those.
[[nodiscard]] std::vector<std::string> carried_keys(std::string_view base);

}  // namespace llama
