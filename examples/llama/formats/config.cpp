// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Keys and defaults follow the config classes of transformers.
#include "llama/formats/config.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "llama/formats/config_keys.hpp"
#include "llama/formats/strict_json.hpp"

namespace llama {
namespace {

using nlohmann::json;

// Every product of three sizes of a valid model must fit 63 bits, with room for bytes.
constexpr std::ptrdiff_t size_limit = 1 << 20;
constexpr std::ptrdiff_t layer_limit = 1 << 14;

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

/// Keys that must have the value of a plain LLaMA model, unless the family reads them. That value
/// is not "off" for all of them.
struct OneValue {
  const char* key;
  json value;
  const char* text;
  bool or_off;
};
const std::array<OneValue, 9>& one_values() {
  static const std::array<OneValue, 9> table{{{"is_causal", true, "true", false},
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

bool reads(const Family& family, std::string_view key) {
  return std::ranges::find(family.keys, key) != family.keys.end();
}

void refuse_other_models(const std::string& what, const json& root, const Family& family) {
  for (const OneValue& one : one_values()) {
    const json* value = find_key(root, one.key);
    if (value != nullptr && *value != one.value && !(one.or_off && is_off(*value)) &&
        !reads(family, one.key))
      fail_unsupported(what, one.key, *value, one.text);
  }
  // Own classes for the config or the tokenizer do not change the model.
  if (const json* map = find_key(root, "auto_map"); map != nullptr && map->is_object())
    for (const auto& [key, value] : map->items()) {
      const bool taken_over =
          family.own_code && value.is_string() &&
          value.get_ref<const std::string&>().ends_with(fmt::format(".{}", family.architecture));
      if (key.starts_with("AutoModel") && !taken_over)
        fail_unsupported(what, "auto_map", *map, "without code for the model");
    }
}

void refuse_unknown_keys(const std::string& what, const json& root, const Family& family) {
  for (const auto& [key, value] : root.items()) {
    const bool known =
        std::ranges::find(own_keys, key) != own_keys.end() ||
        std::ranges::find(harmless_keys, key) != std::end(harmless_keys) || key == "layer_types" ||
        reads(family, key) ||
        std::ranges::any_of(one_values(), [&](const OneValue& one) { return key == one.key; });
    if (!known && !is_off(value))
      fail_config(
          what, "each key must be known to this program",
          fmt::format("'{}' is {}", clipped(key), clipped(value.dump())),
          fmt::format("remove it if a plain {} model computes the same without it, otherwise "
                      "choose another model",
                      family.model_type == "llama" ? "LLaMA" : family.model_type));
  }
  // All families have these, but not all of them on.
  for (const char* key : {"attention_bias", "mlp_bias"})
    if (!reads(family, key) && boolean_key(what, root, key).value_or(false))
      fail_unsupported(what, key, root[key], "false");
}

/// The base of layers with local RoPE, which newer transformers write as a member of
/// `rope_parameters`.
double read_local_rope(const std::string& what, const json& root) {
  json alone = json::object();
  if (const json* base = find_key(root, "rope_local_base_freq")) alone["rope_theta"] = *base;
  if (const json* rope = find_key(root, "rope_parameters"); rope != nullptr && rope->is_object())
    if (const json* own = find_key(*rope, "sliding_attention")) alone["rope_parameters"] = *own;
  const RopeSettings local = read_rope(what + " (local RoPE)", alone, {.theta = 10000.0});
  if (!(local.scaling == RopeScaling{}) || local.partial != 1.0)
    fail_config(what, "the RoPE of sliding layers must be of the rope_type \"default\"",
                fmt::format("it is {}", clipped(alone.dump())),
                "this program does not support such a model; choose another one");
  return local.theta;
}

/// RoPE and what of a head it turns.
void read_positions(const std::string& what, const json& root, const Family& family,
                    LlamaConfig& config) {
  const bool local = reads(family, "rope_local_base_freq");
  const RopeSettings rope = read_rope(what, root,
                                      {.layer_type = local ? "full_attention" : "",
                                       .theta = family.rope_theta,
                                       .max_positions = config.max_positions,
                                       .original_positions = family.original_positions,
                                       .head_size = config.head_size()});
  config.rope_theta = rope.theta;
  if (local) config.traits.local_rope_theta = read_local_rope(what, root);
  config.traits.rope = rope.scaling;
  if (rope.partial != 1.0) {
    if (!family.partial_rotary)
      fail_config(what, "'partial_rotary_factor' must be 1", fmt::format("it is {}", rope.partial),
                  "this program does not support such a model; choose another one");
    config.traits.rotary =
        static_cast<std::ptrdiff_t>(static_cast<double>(config.head_size()) * rope.partial);
  }
}

std::optional<std::string> problem_of_heads(const LlamaConfig& c) {
  if (c.heads % c.kv_heads != 0) {
    return fmt::format(
        "heads must be a multiple of kv_heads, but they are {} and {}; choose kv_heads among the "
        "divisors of {}",
        c.heads, c.kv_heads, c.heads);
  }
  if (c.traits.head_size == 0 && c.hidden % c.heads != 0) {
    return fmt::format(
        "hidden must be a multiple of heads, but they are {} and {}; choose hidden = heads x head "
        "size",
        c.hidden, c.heads);
  }
  if (c.traits.head_size < 0 || c.traits.head_size > size_limit)
    return fmt::format("head_dim must be from 1 to {}, but it is {}; choose a size in that range",
                       size_limit, c.traits.head_size);
  if (c.traits.rotary == 0 && c.head_size() % 2 != 0) {
    return c.traits.head_size != 0
               ? fmt::format("head_dim must be even (RoPE turns pairs), but it is {}; change it",
                             c.head_size())
               : fmt::format(
                     "the head size hidden / heads must be even (RoPE turns pairs), but it is {} / "
                     "{} = {}; change hidden or heads",
                     c.hidden, c.heads, c.head_size());
  }
  // YaRN and the dynamic kind divide by what is left without the first pair.
  const std::ptrdiff_t least = c.traits.rope.kind == RopeScaling::Kind::dynamic ? 4 : 2;
  if (c.rotary() % 2 != 0 || c.rotary() < least || c.rotary() > c.head_size())
    return fmt::format(
        "the turned part of a head must be an even number from {} to {}, but it is {}; change "
        "partial_rotary_factor",
        least, c.head_size(), c.rotary());
  return std::nullopt;
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
  if (const auto problem = problem_of_heads(c)) return problem;
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
  const Traits& t = c.traits;
  const std::ptrdiff_t q = c.heads * c.head_size(), kv = c.kv_heads * c.head_size();
  std::ptrdiff_t block = 2 * c.hidden * (q + kv) + 3 * c.hidden * c.intermediate;
  block += (t.norms == NormPlaces::both ? 4 : 2) * c.hidden;
  if (t.qkv_bias) block += q + 2 * kv;
  if (t.o_bias) block += c.hidden;
  if (t.mlp_bias) block += 2 * c.intermediate + c.hidden;
  if (t.head_norm == ops::HeadNorm::per_head) block += 2 * c.head_size();
  if (t.head_norm == ops::HeadNorm::whole_row) block += q + kv;
  return c.layers * block + c.hidden + c.vocabulary * c.hidden * (c.tie_embeddings ? 1 : 2);
}

LlamaConfig parse_config(std::string_view json_text, const std::string& what) {
  const json root = parse_strict_json(json_text, what);
  const Family& family = family_of(what, root);
  refuse_other_models(what, root, family);
  refuse_unknown_keys(what, root, family);
  LlamaConfig config;
  config.vocabulary = required_integer_key(what, root, "vocab_size");
  config.hidden = required_integer_key(what, root, "hidden_size");
  config.intermediate = required_integer_key(what, root, "intermediate_size");
  config.layers = required_integer_key(what, root, "num_hidden_layers");
  config.heads = required_integer_key(what, root, "num_attention_heads");
  // Null means as many as heads for all families.
  const bool says = root.contains("num_key_value_heads") || family.kv_heads == 0;
  config.kv_heads = integer_key(what, root, "num_key_value_heads")
                        .value_or(says ? config.heads : family.kv_heads);
  config.norm_epsilon = number_key(what, root, "rms_norm_eps").value_or(family.norm_epsilon);
  config.tie_embeddings = boolean_key(what, root, "tie_word_embeddings").value_or(family.tied);
  config.max_positions =
      integer_key(what, root, "max_position_embeddings").value_or(family.max_positions);
  config.traits.head_size = integer_key(what, root, "head_dim").value_or(family.traits.head_size);
  if (const auto problem = problem_of(config))
    throw std::runtime_error(fmt::format("{}: {}", what, *problem));
  config.traits = read_traits(what, root, family, config);
  read_positions(what, root, family, config);
  if (const auto problem = problem_of(config))
    throw std::runtime_error(fmt::format("{}: {}", what, *problem));
  if (!(config.traits == Traits{})) config.traits.source = traits_source(root, family);
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
  const Family& family = family_named(config.traits.family);
  const bool plain = config.traits.source.empty();
  nlohmann::ordered_json root;
  root["architectures"] = {family.architecture};
  root["model_type"] = family.model_type;
  if (plain) root["hidden_act"] = "silu";
  root["vocab_size"] = config.vocabulary;
  root["hidden_size"] = config.hidden;
  root["intermediate_size"] = config.intermediate;
  root["num_hidden_layers"] = config.layers;
  root["num_attention_heads"] = config.heads;
  root["num_key_value_heads"] = config.kv_heads;
  if (plain) root["head_dim"] = config.head_size();
  root["rms_norm_eps"] = config.norm_epsilon;
  if (plain) {
    root["rope_theta"] = config.rope_theta;
    root["rope_scaling"] = nullptr;
    root["attention_bias"] = false;
    root["mlp_bias"] = false;
  } else {
    const auto source = nlohmann::ordered_json::parse(config.traits.source);
    for (const auto& [key, value] : source.items()) root[key] = value;
  }
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
