// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Keys and defaults follow the config classes of transformers.
#include "llama/formats/families.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <utility>

#include "llama/formats/config.hpp"
#include "llama/formats/config_keys.hpp"
#include "llama/formats/strict_json.hpp"

namespace llama {
namespace {

using dropbp::ops::Gate;
using dropbp::ops::HeadNorm;
using nlohmann::json;
using Windows = Family::Windows;

Traits gemma(double attention_softcap, double logit_softcap, HeadNorm head_norm) {
  return {.head_size = 256,
          .head_norm = head_norm,
          .norms = NormPlaces::both,
          .norm_offset = 1.0,
          .gate = Gate::gelu_tanh,
          .scaled_embedding = true,
          .query_scale = 1.0 / 16.0,
          .attention_softcap = attention_softcap,
          .logit_softcap = logit_softcap};
}

std::vector<Family> make_table() {
  return {
      {.model_type = "llama",
       .architecture = "LlamaForCausalLM",
       .keys = {"attention_bias", "mlp_bias"}},
      {.model_type = "mistral",
       .architecture = "MistralForCausalLM",
       .keys = {"sliding_window"},
       .max_positions = 131072,
       .kv_heads = 8,
       .window = 4096,
       .windows = Windows::all},
      {.model_type = "qwen2",
       .architecture = "Qwen2ForCausalLM",
       .keys = {"sliding_window", "use_sliding_window", "max_window_layers", "use_mrope"},
       .max_positions = 32768,
       .kv_heads = 32,
       .window = 4096,
       .windows = Windows::upper,
       .traits = {.qkv_bias = true}},
      {.model_type = "smollm3",
       .architecture = "SmolLM3ForCausalLM",
       .keys = {"attention_bias", "mlp_bias", "sliding_window", "use_sliding_window",
                "max_window_layers", "no_rope_layers", "no_rope_layer_interval", "pretraining_tp"},
       .rope_theta = 2000000.0,
       .max_positions = 32768,
       .kv_heads = 4,
       .tied = true,
       .windows = Windows::unturned},
      {.model_type = "qwen3",
       .architecture = "Qwen3ForCausalLM",
       .keys = {"attention_bias", "sliding_window", "use_sliding_window", "max_window_layers"},
       .max_positions = 32768,
       .kv_heads = 32,
       .window = 4096,
       .windows = Windows::upper,
       .traits = {.head_size = 128, .head_norm = HeadNorm::per_head}},
      {.model_type = "phi3",
       .architecture = "Phi3ForCausalLM",
       .keys = {"sliding_window", "original_max_position_embeddings", "full_attn_mod",
                "interpolate_factor"},
       .norm_epsilon = 1e-5,
       .max_positions = 4096,
       .original_positions = 4096,
       .windows = Windows::all,
       .partial_rotary = true,
       .own_code = true,
       .traits = {.fused = true}},
      {.model_type = "olmo2",
       .architecture = "Olmo2ForCausalLM",
       .keys = {"attention_bias"},
       .norm_epsilon = 1e-5,
       .traits = {.head_norm = HeadNorm::whole_row, .norms = NormPlaces::outputs}},
      {.model_type = "gemma2",
       .architecture = "Gemma2ForCausalLM",
       .keys = {"attention_bias", "hidden_activation", "query_pre_attn_scalar", "sliding_window",
                "attn_logit_softcapping", "final_logit_softcapping"},
       .max_positions = 8192,
       .kv_heads = 4,
       .tied = true,
       .window = 4096,
       .windows = Windows::all_but_nth,
       .window_pattern = 2,
       .traits = gemma(50.0, 30.0, HeadNorm::none)},
      {.model_type = "gemma3_text",
       .architecture = "Gemma3ForCausalLM",
       .keys = {"attention_bias", "hidden_activation", "query_pre_attn_scalar", "sliding_window",
                "attn_logit_softcapping", "final_logit_softcapping", "rope_local_base_freq",
                "sliding_window_pattern", "_sliding_window_pattern"},
       .rope_theta = 1000000.0,
       .max_positions = 131072,
       .kv_heads = 4,
       .tied = true,
       .window = 4096,
       .windows = Windows::all_but_nth,
       .window_pattern = 6,
       .traits = gemma(0.0, 0.0, HeadNorm::per_head)},
  };
}

/// Models beyond the table that are often met, and what they are.
struct Beyond {
  std::string_view part;  // of the model_type
  std::string_view what;
};
constexpr Beyond beyond[] = {
    {"moe", "a mixture of experts"},
    {"mixtral", "a mixture of experts"},
    {"deepseek", "a mixture of experts"},
    {"gpt_oss", "a mixture of experts"},
    {"llama4", "a mixture of experts"},
    {"_vl", "a model that reads images"},
    {"vl_", "a model that reads images"},
    {"mllama", "a model that reads images"},
    {"vision", "a model that reads images"},
    {"mistral3", "a model that reads images"},
    {"llava", "a model that reads images"},
    {"phi4_multimodal", "a model that reads images"},
    {"gemma3", "a model that reads images (its text model is a \"gemma3_text\")"},
    {"gemma3n", "a model that reads images"},
    {"mamba", "a state-space model"},
};

/// Of all families, besides those that hold sizes. Which families read which is in the table.
constexpr std::string_view common_keys[] = {"hidden_act",      "head_dim",
                                            "rope_theta",      "rope_scaling",
                                            "rope_parameters", "partial_rotary_factor",
                                            "layer_types"};

bool reads(const Family& family, std::string_view key) {
  return std::ranges::find(family.keys, key) != family.keys.end();
}

/// A value of a key that this family reads, else none.
template <class Read>
auto of_family(const Family& family, const std::string& what, const json& root,
               std::string_view key, const Read& read) {
  return reads(family, key) ? read(what, root, key) : decltype(read(what, root, key)){};
}

Gate gate_of(const std::string& what, const json& root, const Family& family) {
  const char* const key = reads(family, "hidden_activation") ? "hidden_activation" : "hidden_act";
  const json* value = find_key(root, key);
  if (value == nullptr) return family.traits.gate;
  if (*value == "silu" || *value == "swish") return Gate::silu;
  if (*value == "gelu_pytorch_tanh") return Gate::gelu_tanh;
  fail_unsupported(what, key, *value, "\"silu\", \"swish\" or \"gelu_pytorch_tanh\"");
}

/// `no_rope_layers` has a 0 for each layer without RoPE; by default each interval's last has none.
std::vector<bool> turned_layers(const std::string& what, const json& root, const Family& family,
                                std::size_t layers) {
  std::vector<bool> turned(layers, true);
  if (!reads(family, "no_rope_layers")) return turned;
  const json* const list = find_key(root, "no_rope_layers");
  if (list == nullptr) {
    const auto interval = integer_key(what, root, "no_rope_layer_interval").value_or(4);
    for (std::size_t i = 0; i < layers; ++i)
      turned[i] = interval == 0 || (i + 1) % static_cast<std::size_t>(interval) != 0;
    return turned;
  }
  const auto is_flag = [](const json& flag) { return flag == 0 || flag == 1; };
  if (!list->is_array() || list->size() < layers || !std::ranges::all_of(*list, is_flag))
    fail_unsupported(what, "no_rope_layers", *list,
                     fmt::format("a list of 0 and 1 for each of {} layers", layers));
  for (std::size_t i = 0; i < layers; ++i) turned[i] = (*list)[i] == 1;
  return turned;
}

/// Whether a layer sees a window where `layer_types` does not say.
bool sees_window(const Family& family, std::size_t layer, bool turned, bool used,
                 std::ptrdiff_t first, std::ptrdiff_t pattern) {
  switch (family.windows) {
    case Windows::none:
      return false;
    case Windows::all:
      return true;
    case Windows::upper:
      return used && static_cast<std::ptrdiff_t>(layer) >= first;
    case Windows::unturned:
      return used && !turned;
    case Windows::all_but_nth:
      return (static_cast<std::ptrdiff_t>(layer) + 1) % pattern != 0;
  }
  return false;
}

/// By `layer_types`; none where that is absent.
std::optional<std::vector<bool>> listed_windows(const std::string& what, const json& root,
                                                const Family& family, std::size_t layers) {
  const json* const types = find_key(root, "layer_types");
  if (types == nullptr || is_off(*types)) return std::nullopt;
  // Where all layers slide, transformers does not look at the list.
  const bool may_slide = family.windows != Windows::none && family.windows != Windows::all;
  const auto is_known = [&](const json& type) {
    return type == "full_attention" || (may_slide && type == "sliding_attention");
  };
  const bool right_size = !may_slide || types->size() == layers;
  if (!types->is_array() || !right_size || !std::ranges::all_of(*types, is_known))
    fail_unsupported(
        what, "layer_types", *types,
        may_slide ? fmt::format("a list of \"full_attention\" and \"sliding_attention\", one for "
                                "each of {} layers",
                                layers)
                  : std::string("a list of \"full_attention\" alone"));
  std::vector<bool> listed(layers, false);
  for (std::size_t i = 0; may_slide && i < layers; ++i)
    listed[i] = (*types)[i] == "sliding_attention";
  return listed;
}

/// Of `sliding_window`: absent and null differ.
std::ptrdiff_t window_of(const std::string& what, const json& root, const Family& family) {
  if (family.windows == Windows::none) return 0;
  if (!root.contains("sliding_window")) return family.window;
  return integer_key(what, root, "sliding_window").value_or(0);
}

std::vector<LayerTraits> layers_of(const std::string& what, const json& root, const Family& family,
                                   std::size_t layers) {
  const std::ptrdiff_t window = window_of(what, root, family);
  const std::vector<bool> turned = turned_layers(what, root, family, layers);
  const auto listed = listed_windows(what, root, family, layers);
  const bool used =
      of_family(family, what, root, "use_sliding_window", boolean_key).value_or(false);
  const std::ptrdiff_t first =
      of_family(family, what, root, "max_window_layers", integer_key).value_or(28);
  std::ptrdiff_t pattern = family.window_pattern;
  for (const char* key : {"sliding_window_pattern", "_sliding_window_pattern"})
    pattern = of_family(family, what, root, key, integer_key).value_or(pattern);
  if (family.windows == Windows::all_but_nth && pattern < 1)
    fail_config(what, "'sliding_window_pattern' must be at least 1",
                fmt::format("it is {}", pattern), "correct it");
  std::vector<LayerTraits> result(layers);
  for (std::size_t i = 0; i < layers; ++i) {
    const bool slides =
        listed ? (*listed)[i] : sees_window(family, i, turned[i], used, first, pattern);
    result[i].window = slides ? window : 0;
    if (!turned[i])
      result[i].rope = LayerTraits::Rope::none;
    else if (slides && reads(family, "rope_local_base_freq"))
      result[i].rope = LayerTraits::Rope::local;
  }
  const bool plain =
      std::ranges::all_of(result, [](const LayerTraits& layer) { return layer == LayerTraits{}; });
  return plain ? std::vector<LayerTraits>{} : result;
}

/// The scale and the soft caps of scores and logits.
void read_scores(const std::string& what, const json& root, const Family& family, Traits& traits) {
  if (const auto scalar = of_family(family, what, root, "query_pre_attn_scalar", number_key)) {
    if (*scalar <= 0.0)
      fail_config(what, "'query_pre_attn_scalar' must be above 0", fmt::format("it is {}", *scalar),
                  "use the config.json that belongs to the weights");
    traits.query_scale = 1.0 / std::sqrt(*scalar);
  }
  // Absent means the family's cap, null none.
  const auto cap = [&](const char* key, double& value) {
    if (reads(family, key) && root.contains(key)) value = number_key(what, root, key).value_or(0.0);
    if (!std::isfinite(value) || value < 0.0)
      fail_config(what, fmt::format("'{}' must be a number above 0, or null", key),
                  fmt::format("it is {}", value),
                  "use the config.json that belongs to the weights");
  };
  cap("attn_logit_softcapping", traits.attention_softcap);
  cap("final_logit_softcapping", traits.logit_softcap);
}

}  // namespace

std::span<const Family> families() {
  static const std::vector<Family> table = make_table();
  return table;
}

const Family& family_named(std::string_view model_type) {
  for (const Family& family : families())
    if (family.model_type == model_type) return family;
  throw std::out_of_range(fmt::format("no family of models is named '{}'", model_type));
}

const Family& family_of(const std::string& what, const json& root) {
  const json* const value = find_key(root, "model_type");
  if (value == nullptr) return families().front();
  for (const Family& family : families())
    if (*value == family.model_type) return family;
  std::vector<std::string_view> names;
  for (const Family& family : families()) names.push_back(family.model_type);
  std::string given = fmt::format("it is {}", clipped(value->dump()));
  if (value->is_string())
    for (const Beyond& one : beyond)
      if (value->get_ref<const std::string&>().find(one.part) != std::string::npos) {
        given += fmt::format(", {}", one.what);
        break;
      }
  fail_config(what, fmt::format("'model_type' must be one of {}", fmt::join(names, ", ")), given,
              "this program does not support such a model; choose another one");
}

Traits read_traits(const std::string& what, const json& root, const Family& family,
                   const LlamaConfig& config) {
  Traits traits = family.traits;
  traits.family = family.model_type;
  traits.gate = gate_of(what, root, family);
  const bool usual = config.traits.head_size * config.heads == config.hidden;
  traits.head_size = usual ? 0 : config.traits.head_size;
  if (const auto bias = of_family(family, what, root, "attention_bias", boolean_key))
    traits.qkv_bias = traits.o_bias = *bias;
  if (const auto bias = of_family(family, what, root, "mlp_bias", boolean_key))
    traits.mlp_bias = *bias;
  read_scores(what, root, family, traits);
  traits.layers = layers_of(what, root, family, static_cast<std::size_t>(config.layers));
  return traits;
}

std::string traits_source(const json& root, const Family& family) {
  json source = json::object();
  for (const auto& [key, value] : root.items())
    if (reads(family, key) || std::ranges::find(common_keys, key) != std::end(common_keys))
      source[key] = value;
  return source.dump();
}

std::vector<std::string> linears_of(const Traits& traits) {
  if (traits.fused) return {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"};
  return {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
}

}  // namespace llama
