// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Keys and defaults follow transformers' LlamaConfig.
#include "config.hpp"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "strict_json.hpp"

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
  fail(what, fmt::format("'{}' must be {}", key, required), fmt::format("it is {}", value.dump()),
       "this trainer has no such model, choose another one");
}

/// The member, or null if it is absent or JSON's null: Hugging Face writes both for "default".
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
         fmt::format("it is {}", value->dump()), "correct it");
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
    fail(what, fmt::format("'{}' must be a number", key), fmt::format("it is {}", value->dump()),
         "correct it");
  return value->get<double>();
}

std::optional<bool> boolean(const std::string& what, const json& object, const char* key) {
  const json* value = find(object, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean())
    fail(what, fmt::format("'{}' must be true or false", key),
         fmt::format("it is {}", value->dump()), "correct it");
  return value->get<bool>();
}

/// Newer transformers put the type of RoPE into `rope_scaling` or `rope_parameters` even when it is
/// the plain one.
bool is_plain_rope(const json& rope, const char* type_if_absent) {
  if (!rope.is_object()) return false;
  const json* type = find(rope, "rope_type");
  if (type == nullptr) type = find(rope, "type");
  return type == nullptr ? std::string_view(type_if_absent) == "default" : *type == "default";
}

void refuse_unsupported(const std::string& what, const json& root) {
  if (const json* value = find(root, "model_type"); value != nullptr && *value != "llama")
    fail_unsupported(what, "model_type", *value, "\"llama\"");
  if (const json* value = find(root, "hidden_act"); value != nullptr && *value != "silu")
    fail_unsupported(what, "hidden_act", *value, "\"silu\"");
  for (const char* key : {"attention_bias", "mlp_bias"}) {
    if (boolean(what, root, key).value_or(false)) fail_unsupported(what, key, root[key], "false");
  }
  if (const json* value = find(root, "rope_scaling");
      value != nullptr && !is_plain_rope(*value, "unknown"))
    fail_unsupported(what, "rope_scaling", *value, "null");
  if (const json* value = find(root, "rope_parameters");
      value != nullptr && !is_plain_rope(*value, "default")) {
    fail_unsupported(what, "rope_parameters", *value, "of the rope_type \"default\"");
  }
  for (const char* key : {"quantization_config", "sliding_window"}) {
    if (const json* value = find(root, key); value != nullptr)
      fail_unsupported(what, key, *value, "null");
  }
  if (const auto factor = number(what, root, "partial_rotary_factor"); factor && *factor != 1.0) {
    fail_unsupported(what, "partial_rotary_factor", root["partial_rotary_factor"], "1");
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
  refuse_unsupported(what, root);
  LlamaConfig config;
  config.vocabulary = required_integer(what, root, "vocab_size");
  config.hidden = required_integer(what, root, "hidden_size");
  config.intermediate = required_integer(what, root, "intermediate_size");
  config.layers = required_integer(what, root, "num_hidden_layers");
  config.heads = required_integer(what, root, "num_attention_heads");
  config.kv_heads = integer(what, root, "num_key_value_heads").value_or(config.heads);
  config.norm_epsilon = number(what, root, "rms_norm_eps").value_or(1e-6);
  config.rope_theta = number(what, root, "rope_theta").value_or(10000.0);
  if (const json* rope = find(root, "rope_parameters"))
    config.rope_theta = number(what, *rope, "rope_theta").value_or(config.rope_theta);
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
         "this trainer has no other head size, choose another model");
  }
  return config;
}

LlamaConfig read_config(const std::filesystem::path& path) {
  return parse_config(read_small_file(path), fmt::format("'{}'", path.string()));
}

std::string config_json(const LlamaConfig& config, std::string_view torch_dtype) {
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
  root["torch_dtype"] = torch_dtype;
  return root.dump(2) + "\n";
}

}  // namespace llama
