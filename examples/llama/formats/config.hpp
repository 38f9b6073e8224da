// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The shape of a model and its Hugging Face `config.json`.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "llama/formats/families.hpp"

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
      2048;  ///< written to config.json for other programs; not used here

  Traits traits = {};  ///< of its family

  [[nodiscard]] std::ptrdiff_t head_size() const {
    return traits.head_size == 0 ? hidden / heads : traits.head_size;
  }
  /// Elements of a head that RoPE turns.
  [[nodiscard]] std::ptrdiff_t rotary() const {
    return traits.rotary == 0 ? head_size() : traits.rotary;
  }
  bool operator==(const LlamaConfig&) const = default;
};

/// A sentence on what is wrong with `config`; empty if it is valid.
[[nodiscard]] std::optional<std::string> problem_of(const LlamaConfig& config);
/// Throws std::invalid_argument with that sentence.
void validate(const LlamaConfig& config);
/// Number of parameters. `config` must be valid.
[[nodiscard]] std::ptrdiff_t parameter_count(const LlamaConfig& config);

/// Parses the text of a `config.json`; absent keys have the family's defaults in Hugging Face.
/// Throws std::runtime_error, naming the key, for a model of no known family, for settings that the
/// family's traits cannot represent and for unknown keys, unless their value is null, false or
/// empty. `rope_theta` may be at the top level, in `rope_scaling` and in `rope_parameters`, but
/// only with one value. `what` names the text in messages.
[[nodiscard]] LlamaConfig parse_config(std::string_view json_text, const std::string& what);
[[nodiscard]] LlamaConfig read_config(const std::filesystem::path& path);

/// A `config.json` that Hugging Face transformers loads as the family's model. `dtype` is written
/// as `torch_dtype`, or as `dtype` if `base` has that key. `base` is the text of the original
/// config.json or empty; its other keys (tokens, generation, provenance) are copied.
[[nodiscard]] std::string config_json(const LlamaConfig& config, std::string_view dtype = "float32",
                                      std::string_view base = {});
/// Names of the copied keys.
[[nodiscard]] std::vector<std::string> carried_keys(std::string_view base);

}  // namespace llama
