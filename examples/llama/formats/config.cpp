// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Keys and defaults follow transformers' LlamaConfig.
#include "llama/formats/config.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "llama/formats/strict_json.hpp"

namespace llama {
namespace {

using nlohmann::json;

// Every product of three sizes of a valid model must fit 63 bits, with room for bytes.
constexpr std::ptrdiff_t size_limit = 1 << 20;
constexpr std::ptrdiff_t layer_limit = 1 << 14;

[[noreturn]] void fail(const std::string& what, const std::string& required,
                       const std::string& given, const std::string& advice) {
  throw std::runtime_error(fmt::format("{}: {}, but {}; {}", what, required, given, advice));
}

[[noreturn]] void fail_unsupported(const std::string& what, const char* key, const json& value,
                                   const char* required) {
  fail(what, fmt::format("'{}' must be {}", key, required),
       fmt::format("it is {}", clipped(value.dump())),
       "this program does not support such a model; choose another one");
}

/// The member; a null pointer if it is absent or JSON's null, which both mean "default".
const json* find(const json& object, const char* key) {
  const auto member = object.find(key);
  return member == object.end() || member->is_null() ? nullptr : &*member;
}

std::optional<std::ptrdiff_t> integer(const std::string& what, const json& object,
                                      const char* key) {
  const json* value = find(object, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number_unsigned() ||
      value->get<std::uint64_t>() >
          static_cast<std::uint64_t>(std::numeric_limits<std::ptrdiff_t>::max())) {
    fail(what, fmt::format("'{}' must be a whole number", key),
         fmt::format("it is {}", clipped(value->dump())), "correct it");
  }
  return static_cast<std::ptrdiff_t>(value->get<std::uint64_t>());
}

std::ptrdiff_t required_integer(const std::string& what, const json& object, const char* key) {
  const auto value = integer(what, object, key);
  if (!value)
    fail(what, fmt::format("'{}' must be given", key), "it is missing",
         "use the config.json that belongs to the weights");
  return *value;
}

std::optional<double> number(const std::string& what, const json& object, const char* key) {
  const json* value = find(object, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number())
    fail(what, fmt::format("'{}' must be a number", key),
         fmt::format("it is {}", clipped(value->dump())), "correct it");
  return value->get<double>();
}

std::optional<bool> boolean(const std::string& what, const json& object, const char* key) {
  const json* value = find(object, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean())
    fail(what, fmt::format("'{}' must be true or false", key),
         fmt::format("it is {}", clipped(value->dump())), "correct it");
  return value->get<bool>();
}

/// Whether a value switches its key off.
bool is_off(const json& value) {
  return value.is_null() || value == false || value == "" ||
         (value.is_structured() && value.empty());
}

/// Keys that this program reads and writes itself.
constexpr std::array<std::string_view, 24> own_keys{"architectures",
                                                    "model_type",
                                                    "hidden_act",
                                                    "vocab_size",
                                                    "hidden_size",
                                                    "intermediate_size",
                                                    "num_hidden_layers",
                                                    "num_attention_heads",
                                                    "num_key_value_heads",
                                                    "head_dim",
                                                    "rms_norm_eps",
                                                    "rope_theta",
                                                    "rope_scaling",
                                                    "rope_parameters",
                                                    "partial_rotary_factor",
                                                    "attention_bias",
                                                    "mlp_bias",
                                                    "tie_word_embeddings",
                                                    "sliding_window",
                                                    "quantization_config",
                                                    "max_position_embeddings",
                                                    "torch_dtype",
                                                    "dtype",
                                                    "auto_map"};

/// Known keys that do not change what a LLaMA model computes: its training, its origin, text
/// generation and notes of other tools.
constexpr std::string_view harmless_keys[] = {
    // The configs of transformers.
    "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal",
    "_commit_hash", "_experts_implementation_internal", "_flash_attn_2_enabled", "_name_or_path",
    "attn_implementation", "base_model_pp_plan", "base_model_tp_plan", "chunk_size_feed_forward",
    "finetuning_task", "gradient_checkpointing", "id2label", "initializer_range",
    "keys_to_ignore_at_inference", "label2id", "loss_type", "name_or_path", "num_labels",
    "original_max_position_embeddings", "output_attentions", "output_hidden_states", "prefix",
    "problem_type", "return_dict", "task_specific_params", "tie_last_hidden_states",
    "tokenizer_class", "torchscript", "transformers_version", "use_bfloat16", "use_cache",
    // Token ids and generation.
    "bad_words_ids", "begin_suppress_tokens", "bos_token_id", "cache_implementation",
    "decoder_start_token_id", "diversity_penalty", "do_sample", "early_stopping",
    "encoder_no_repeat_ngram_size", "eos_token_id", "exponential_decay_length_penalty",
    "forced_bos_token_id", "forced_eos_token_id", "length_penalty", "max_length", "max_new_tokens",
    "min_length", "min_p", "no_repeat_ngram_size", "num_beam_groups", "num_beams",
    "num_return_sequences", "output_scores", "pad_token_id", "remove_invalid_values",
    "repetition_penalty", "return_dict_in_generate", "sep_token_id", "suppress_tokens",
    "temperature", "top_k", "top_p", "typical_p", "unk_token_id",
    // Other tools.
    "is_llama_config", "transformers.js_config", "unsloth_fixed", "unsloth_version"};

/// Keys that must have the value of a plain LLaMA model, which is not "off" for all of them.
struct OneValue {
  const char* key;
  json value;
  const char* text;
  bool or_off;
};
const std::array<OneValue, 11>& one_values() {
  static const std::array<OneValue, 11> table{{{"model_type", "llama", "\"llama\"", false},
                                               {"hidden_act", "silu", "\"silu\"", false},
                                               {"is_causal", true, "true", false},
                                               {"pretraining_tp", 1, "1", true},
                                               {"attention_dropout", 0, "0", true},
                                               {"hidden_dropout", 0, "0", true},
                                               {"embd_pdrop", 0, "0", true},
                                               {"resid_pdrop", 0, "0", true},
                                               {"attn_pdrop", 0, "0", true},
                                               {"sliding_window", nullptr, "null", true},
                                               {"quantization_config", nullptr, "null", true}}};
  return table;
}

/// The objects that may hold RoPE's settings: the top level, and those of newer transformers.
struct RopePlace {
  const char* name;  // "" for the top
  const json& object;

  std::string key(const std::string& key) const {
    return *name == '\0' ? fmt::format("'{}'", key) : fmt::format("'{}.{}'", name, key);
  }
};

std::vector<RopePlace> rope_places(const std::string& what, const json& root) {
  std::vector<RopePlace> places{{"", root}};
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    const json* rope = find(root, name);
    if (rope == nullptr || is_off(*rope)) continue;
    if (!rope->is_object())
      fail_unsupported(what, name, *rope, "null or of the rope_type \"default\"");
    places.push_back({name, *rope});
  }
  return places;
}

/// The number under this key; throws if two places have different values.
std::optional<double> rope_number(const std::string& what, const std::vector<RopePlace>& places,
                                  const char* key) {
  std::optional<double> common;
  std::string where;
  for (const RopePlace& place : places) {
    const auto value = number(what, place.object, key);
    if (!value) continue;
    if (common && *common != *value)
      fail(what, fmt::format("'{}' must be the same wherever it is given", key),
           fmt::format("{} is {} and {} is {}", where, *common, place.key(key), *value),
           "correct the one that the weights were not made with");
    common = value;
    if (where.empty()) where = place.key(key);
  }
  return common;
}

/// Whether a key of RoPE's settings has the value of plain RoPE or is read elsewhere.
bool is_plain_rope(std::string_view key, const json& value) {
  if (key == "rope_theta" || key == "partial_rotary_factor" ||
      key == "original_max_position_embeddings" || is_off(value))
    return true;
  if (key == "rope_type" || key == "type") return value == "default";
  if (key == "factor" || key == "attention_factor" || key == "attention_scaling") return value == 1;
  return false;
}

/// Base of RoPE's angles, from any place; all other settings must be those of plain RoPE.
double read_rope(const std::string& what, const json& root) {
  const std::vector<RopePlace> places = rope_places(what, root);
  for (const RopePlace& place : places) {
    if (*place.name == '\0') continue;
    const std::string_view required = "null or of the rope_type \"default\"";
    for (const auto& [key, value] : place.object.items()) {
      if (is_plain_rope(key, value)) continue;
      fail(what, fmt::format("'{}' must be {}", place.name, required),
           fmt::format("its '{}' is {} in {}", key, clipped(value.dump()),
                       clipped(place.object.dump())),
           "this program does not support such a model; choose another one");
    }
  }
  if (const auto factor = rope_number(what, places, "partial_rotary_factor");
      factor && *factor != 1.0)
    fail(what, "'partial_rotary_factor' must be 1", fmt::format("it is {}", *factor),
         "this program does not support such a model; choose another one");
  return rope_number(what, places, "rope_theta").value_or(10000.0);
}

void refuse_other_models(const std::string& what, const json& root) {
  for (const OneValue& one : one_values()) {
    const json* value = find(root, one.key);
    if (value != nullptr && *value != one.value && !(one.or_off && is_off(*value)))
      fail_unsupported(what, one.key, *value, one.text);
  }
  for (const char* key : {"attention_bias", "mlp_bias"})
    if (boolean(what, root, key).value_or(false)) fail_unsupported(what, key, root[key], "false");
  if (const json* types = find(root, "layer_types"))
    if (!types->is_array() ||
        !std::ranges::all_of(*types, [](const json& type) { return type == "full_attention"; }))
      fail_unsupported(what, "layer_types", *types, "a list of \"full_attention\" alone");
  // Own classes for the config or the tokenizer do not change the model.
  if (const json* map = find(root, "auto_map"); map != nullptr && map->is_object())
    for (const auto& [key, value] : map->items())
      if (key.starts_with("AutoModel"))
        fail_unsupported(what, "auto_map", *map, "without code for the model");
}

void refuse_unknown_keys(const std::string& what, const json& root) {
  for (const auto& [key, value] : root.items()) {
    const bool known =
        std::ranges::find(own_keys, key) != own_keys.end() ||
        std::ranges::find(harmless_keys, key) != std::end(harmless_keys) || key == "layer_types" ||
        std::ranges::any_of(one_values(), [&](const OneValue& one) { return key == one.key; });
    if (!known && !is_off(value))
      fail(
          what, "each key must be known to this program",
          fmt::format("'{}' is {}", clipped(key), clipped(value.dump())),
          "remove it if a plain LLaMA model computes the same without it, otherwise choose another "
          "model");
  }
}

}  // namespace

std::optional<std::string> problem_of(const LlamaConfig& c) {
  const struct {
    const char* name;
    std::ptrdiff_t value;
    std::ptrdiff_t limit = size_limit;
  } sizes[] = {
      {"vocabulary", c.vocabulary},      {"hidden", c.hidden}, {"intermediate", c.intermediate},
      {"layers", c.layers, layer_limit}, {"heads", c.heads},   {"kv_heads", c.kv_heads}};
  for (const auto& size : sizes) {
    if (size.value < 1 || size.value > size.limit) {
      return fmt::format("{} must be from 1 to {}, but it is {}; choose a size in that range",
                         size.name, size.limit, size.value);
    }
  }
  if (c.heads % c.kv_heads != 0) {
    return fmt::format(
        "heads must be a multiple of kv_heads, but they are {} and {}; choose kv_heads among the "
        "divisors of {}",
        c.heads, c.kv_heads, c.heads);
  }
  if (c.hidden % c.heads != 0) {
    return fmt::format(
        "hidden must be a multiple of heads, but they are {} and {}; choose hidden = heads x head "
        "size",
        c.hidden, c.heads);
  }
  if (c.head_size() % 2 != 0) {
    return fmt::format(
        "the head size hidden / heads must be even (RoPE turns pairs), but it is {} / {} = {}; "
        "change hidden or heads",
        c.hidden, c.heads, c.head_size());
  }
  if (!std::isfinite(c.norm_epsilon) || c.norm_epsilon <= 0.0 || c.norm_epsilon >= 1.0) {
    return fmt::format(
        "norm_epsilon must be above 0 and below 1, but it is {}; the usual value is 1e-6",
        c.norm_epsilon);
  }
  if (!std::isfinite(c.rope_theta) || c.rope_theta <= 0.0) {
    return fmt::format("rope_theta must be above 0, but it is {}; the usual value is 10000",
                       c.rope_theta);
  }
  return std::nullopt;
}

void validate(const LlamaConfig& config) {
  if (const auto problem = problem_of(config)) throw std::invalid_argument(*problem);
}

std::ptrdiff_t parameter_count(const LlamaConfig& c) {
  const std::ptrdiff_t attention =
      2 * c.hidden * c.hidden + 2 * c.hidden * c.kv_heads * c.head_size();
  const std::ptrdiff_t block = attention + 3 * c.hidden * c.intermediate + 2 * c.hidden;
  return c.layers * block + c.hidden + c.vocabulary * c.hidden * (c.tie_embeddings ? 1 : 2);
}

LlamaConfig parse_config(std::string_view json_text, const std::string& what) {
  const json root = parse_strict_json(json_text, what);
  refuse_other_models(what, root);
  refuse_unknown_keys(what, root);
  LlamaConfig config;
  config.vocabulary = required_integer(what, root, "vocab_size");
  config.hidden = required_integer(what, root, "hidden_size");
  config.intermediate = required_integer(what, root, "intermediate_size");
  config.layers = required_integer(what, root, "num_hidden_layers");
  config.heads = required_integer(what, root, "num_attention_heads");
  config.kv_heads = integer(what, root, "num_key_value_heads").value_or(config.heads);
  config.norm_epsilon = number(what, root, "rms_norm_eps").value_or(1e-6);
  config.rope_theta = read_rope(what, root);
  config.tie_embeddings = boolean(what, root, "tie_word_embeddings").value_or(false);
  config.max_positions = integer(what, root, "max_position_embeddings").value_or(2048);
  if (const auto problem = problem_of(config))
    throw std::runtime_error(fmt::format("{}: {}", what, *problem));
  if (const auto head_size = integer(what, root, "head_dim");
      head_size && *head_size != config.head_size()) {
    fail(what,
         fmt::format("'head_dim' must be hidden_size / num_attention_heads = {}",
                     config.head_size()),
         fmt::format("it is {}", *head_size),
         "this program supports no other head size; choose another model");
  }
  return config;
}

LlamaConfig read_config(const std::filesystem::path& path) {
  return parse_config(read_small_file(path, max_config_bytes), fmt::format("'{}'", path.string()));
}

std::vector<std::string> carried_keys(std::string_view base) {
  std::vector<std::string> keys;
  if (base.empty()) return keys;
  const auto root = nlohmann::ordered_json::parse(base);
  for (const auto& [key, value] : root.items())
    if (std::ranges::find(own_keys, key) == own_keys.end()) keys.push_back(key);
  return keys;
}

std::string config_json(const LlamaConfig& config, std::string_view dtype, std::string_view base) {
  const auto others =
      base.empty() ? nlohmann::ordered_json::object() : nlohmann::ordered_json::parse(base);
  nlohmann::ordered_json root;
  root["architectures"] = {"LlamaForCausalLM"};
  root["model_type"] = "llama";
  root["hidden_act"] = "silu";
  root["vocab_size"] = config.vocabulary;
  root["hidden_size"] = config.hidden;
  root["intermediate_size"] = config.intermediate;
  root["num_hidden_layers"] = config.layers;
  root["num_attention_heads"] = config.heads;
  root["num_key_value_heads"] = config.kv_heads;
  root["head_dim"] = config.head_size();
  root["rms_norm_eps"] = config.norm_epsilon;
  root["rope_theta"] = config.rope_theta;
  root["rope_scaling"] = nullptr;
  root["attention_bias"] = false;
  root["mlp_bias"] = false;
  root["tie_word_embeddings"] = config.tie_embeddings;
  root["max_position_embeddings"] = config.max_positions;
  // Transformers 5 writes `dtype`; both versions read both names.
  const bool renamed = others.contains("dtype");
  if (!renamed || others.contains("torch_dtype")) root["torch_dtype"] = dtype;
  if (renamed) root["dtype"] = dtype;
  for (const std::string& key : carried_keys(base)) root[key] = others[key];
  return root.dump(2) + "\n";
}

}  // namespace llama
