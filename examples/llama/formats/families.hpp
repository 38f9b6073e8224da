// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The families of models: one row of traits for each `model_type` of Hugging Face. One model does
// what the traits say; a family that only combines them is one more row in families.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <dropbp/ops/branch_traits.hpp>

#include "llama/formats/rope_scaling.hpp"

namespace llama {

namespace ops = dropbp::ops;
struct LlamaConfig;

/// What one layer's attention sees.
struct LayerTraits {
  enum class Rope : std::uint8_t { none, global, local };

  Rope rope = Rope::global;   ///< how it turns queries and keys; local: by `local_rope_theta`
  std::ptrdiff_t window = 0;  ///< the newest tokens that are seen, itself among them; 0: all
  bool operator==(const LayerTraits&) const = default;
};

/// Which of a block's branches are normalised where.
enum class NormPlaces : std::uint8_t {
  inputs,   ///< LLaMA
  outputs,  ///< OLMo 2
  both      ///< Gemma
};

/// How a family's models differ from LLaMA's. The defaults are LLaMA's.
struct Traits {
  std::string_view family = "llama";  ///< `model_type`, one of families()
  std::ptrdiff_t head_size = 0;       ///< 0: hidden / heads
  std::ptrdiff_t rotary = 0;          ///< elements of a head that RoPE turns; 0: all
  RopeScaling rope = {};
  double local_rope_theta = 0.0;  ///< of layers with local RoPE
  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;
  bool fused = false;  ///< the checkpoint has qkv_proj and gate_up_proj
  ops::HeadNorm head_norm = ops::HeadNorm::none;
  NormPlaces norms = NormPlaces::inputs;
  double norm_offset = 0.0;  ///< norms multiply by weight + offset
  ops::Gate gate = ops::Gate::silu;
  bool scaled_embedding = false;         ///< by sqrt(hidden)
  double query_scale = 0.0;              ///< of the scores; 0: 1 / sqrt(head_size)
  double attention_softcap = 0.0;        ///< of the scores; 0: none
  double logit_softcap = 0.0;            ///< of the logits; 0: none
  std::vector<LayerTraits> layers = {};  ///< empty: all as LayerTraits' defaults
  /// The members of the config.json that these were read from, as the text of an object: they are
  /// written as they were. Empty for a model that began here.
  std::string source = {};

  [[nodiscard]] LayerTraits layer(std::size_t index) const {
    return layers.empty() ? LayerTraits{} : layers.at(index);
  }
  bool operator==(const Traits&) const = default;
};

/// A family's row: its names, and what config.json means where it does not say.
struct Family {
  /// How the layers that see a window are chosen where `layer_types` does not say.
  enum class Windows : std::uint8_t {
    none,
    all,         ///< where `sliding_window` is given
    upper,       ///< with `use_sliding_window`, from `max_window_layers` on
    unturned,    ///< with `use_sliding_window`, those without RoPE
    all_but_nth  ///< all but every nth, n being `sliding_window_pattern`
  };

  std::string_view model_type;              ///< "qwen2"
  std::string_view architecture;            ///< "Qwen2ForCausalLM"
  std::vector<std::string_view> keys = {};  ///< read or harmless, besides those of all
  double norm_epsilon = 1e-6;
  double rope_theta = 10000.0;
  std::ptrdiff_t max_positions = 2048;
  std::ptrdiff_t original_positions = 0;  ///< `original_max_position_embeddings`; 0: max_positions
  std::ptrdiff_t kv_heads = 0;            ///< 0: as many as heads
  bool tied = false;
  std::ptrdiff_t window = 0;  ///< `sliding_window` where it is absent
  Windows windows = Windows::none;
  std::ptrdiff_t window_pattern = 0;  ///< the n of all_but_nth
  bool partial_rotary = false;        ///< `partial_rotary_factor` may be below 1
  bool own_code = false;  ///< published with code of its own, which transformers took over
  Traits traits = {};     ///< those that all its models have
};

/// The table.
[[nodiscard]] std::span<const Family> families();

/// The row for a config.json. Throws std::runtime_error for a `model_type` that is not in the
/// table; the message says so by name for what is beyond it (mixtures of experts, images).
[[nodiscard]] const Family& family_of(const std::string& what, const nlohmann::json& root);
/// The row of a model. Throws std::out_of_range where there is none.
[[nodiscard]] const Family& family_named(std::string_view model_type);

/// The traits of a config.json of that family, but for RoPE's. `config` has the sizes,
/// that of a head among them.
[[nodiscard]] Traits read_traits(const std::string& what, const nlohmann::json& root,
                                 const Family& family, const LlamaConfig& config);
/// Traits::source of a config.json.
[[nodiscard]] std::string traits_source(const nlohmann::json& root, const Family& family);

/// Linear maps of a layer that can have adapters, by the last part of their names.
[[nodiscard]] std::vector<std::string> linears_of(const Traits& traits);

}  // namespace llama
