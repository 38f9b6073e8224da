// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "llama/model/adapter.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "llama/formats/lora_patterns.hpp"
#include "llama/formats/strict_json.hpp"

namespace llama {
namespace {

using json = nlohmann::json;

constexpr auto& known_linears = ops::adaptable_linears;
constexpr std::string_view peft_prefix = "base_model.model.";
constexpr const char* base_key =
    "dropbp.base";  // in __metadata__: CRC-32C of the base, see LlamaModel::base_checksum

/// Whether it is the last part of a linear map's name, in some family of models.
bool is_short(const std::string& target) {
  return std::ranges::find(known_linears, target) != known_linears.end();
}

/// Whether some of the targets name some of the maps.
bool names_some(std::vector<std::string> targets, std::span<const std::string> names) {
  const ops::LoraConfig lora{.rank = 1, .targets = std::move(targets)};
  return std::ranges::any_of(names, [&](const std::string& name) { return lora.adapts(name); });
}

[[noreturn]] void fail(const std::string& what, const std::string& required,
                       const std::string& given) {
  throw std::runtime_error(fmt::format("{}: {}, but {}; use a plain LoRA adapter of a LLaMA model",
                                       what, required, given));
}

double number(const std::string& what, const json& config, const char* key) {
  const auto value = config.find(key);
  if (value == config.end() || !value->is_number())
    fail(what, fmt::format("'{}' must be a number", key),
         value == config.end() ? "there is none" : fmt::format("it is {}", value->dump()));
  return value->get<double>();
}

bool boolean_or_null(const std::string& what, const json& value, const char* key) {
  if (!value.is_boolean() && !value.is_null())
    fail(what, fmt::format("'{}' must be true or false", key),
         fmt::format("it is {}", clipped(value.dump())));
  return value == true;
}

bool is_nothing(const json& value) {
  return value.is_null() || value == false || value == "" ||
         (value.is_structured() && value.empty());
}

/// Keys of PEFT's LoraConfig that are read here or do not change an adapter's output: its origin,
/// and settings of methods that other keys enable. All other keys must be off.
constexpr std::string_view known_keys[] = {"peft_type",         "r",
                                           "lora_alpha",        "lora_dropout",
                                           "target_modules",    "bias",
                                           "init_lora_weights", "task_type",
                                           "auto_mapping",      "base_model_name_or_path",
                                           "inference_mode",    "megatron_core",
                                           "peft_version",      "qalora_group_size",
                                           "revision",          "runtime_config",
                                           "unsloth_fixed",     "unsloth_version",
                                           "rank_pattern",      "alpha_pattern",
                                           "use_rslora"};

template <class T, class Backend>
std::vector<NamedTensor> adapter_tensors(LlamaModel<T, Backend>& model) {
  std::vector<NamedTensor> tensors;
  model.for_each_tensor([&](const ops::ParameterSlice<T, Backend>& tensor) {
    if (!tensor.name.ends_with(".lora_A.weight") && !tensor.name.ends_with(".lora_B.weight"))
      return;
    NamedTensor one{.name = std::string(peft_prefix) + tensor.name,
                    .shape = {tensor.rows, tensor.columns}};
    if constexpr (std::is_same_v<T, float> && !dropbp::DeviceBackend<Backend>) {
      one.values = {tensor.value, tensor.size()};
    } else {
      const ops::MatrixView<T, Backend> view(tensor.value, tensor.rows, tensor.columns);
      one.take = [view](std::span<const float> values) {
        ops::upload(view, ops::MatrixView<const float>(values.data(), view.rows, view.columns));
      };
      one.make = [view](std::span<float> values) {
        ops::download(ops::MatrixView<float>(values.data(), view.rows, view.columns), view);
      };
    }
    tensors.push_back(std::move(one));
  });
  return tensors;
}

}  // namespace

std::vector<std::string> canonical_targets(const std::vector<std::string>& targets,
                                           const std::vector<std::string>& linears, bool strict) {
  if (targets.empty() || !std::ranges::all_of(targets, is_short)) return targets;
  std::vector<std::string> ordered;
  for (const std::string& name : linears)
    if (std::ranges::find(targets, name) != targets.end()) ordered.push_back(name);
  const auto missing = std::ranges::find_if(targets, [&](const std::string& name) {
    return std::ranges::find(linears, name) == linears.end();
  });
  if (ordered.empty() || (strict && missing != targets.end()))
    throw std::invalid_argument(fmt::format(
        "adapters must be on some of the model's linear maps {}, but '{}' is none of them; choose "
        "among these",
        fmt::join(linears, ", "), *missing));
  return ordered.size() == linears.size() ? std::vector<std::string>{} : ordered;
}

namespace {

/// Throws for settings that this program does not support.
void refuse_unsupported(const std::string& what, const json& config) {
  if (const auto type = config.find("peft_type"); type == config.end() || *type != "LORA")
    fail(what, "'peft_type' must be \"LORA\"",
         type == config.end() ? "there is none" : fmt::format("it is {}", type->dump()));
  for (const auto& [key, value] : config.items())
    if (!is_nothing(value) && std::ranges::find(known_keys, key) == std::ranges::end(known_keys))
      fail(what,
           fmt::format("'{}' must be off or absent, because this program does not support it",
                       clipped(key)),
           fmt::format("it is {}", clipped(value.dump())));
  if (const auto task = config.find("task_type");
      task != config.end() && !is_nothing(*task) && *task != "CAUSAL_LM")
    fail(what, "'task_type' must be \"CAUSAL_LM\"", fmt::format("it is {}", task->dump()));
  // True, false and "gaussian" only describe the initial adapter; other values also change the
  // base.
  if (const auto init = config.find("init_lora_weights");
      init != config.end() && init->is_string() && *init != "gaussian")
    fail(what, "'init_lora_weights' must leave the base as it is",
         fmt::format("it is {}", init->dump()));
  if (const auto bias = config.find("bias"); bias != config.end() && *bias != "none")
    fail(what, "'bias' must be \"none\"", fmt::format("it is {}", bias->dump()));
}

/// The adapted linear maps; empty for all.
std::vector<std::string> targets_of(const std::string& what, const json& targets,
                                    std::span<const std::string> names) {
  std::vector<std::string> found;
  bool all_short = true;
  for (const json& target : targets) {
    found.push_back(target.is_string() ? target.get<std::string>() : std::string("."));
    if (!is_short(found.back()) && !names_some({found.back()}, names))
      fail(what,
           fmt::format("each of 'target_modules' must be one of {}, or the end of a longer name",
                       fmt::join(known_linears, ", ")),
           fmt::format("one is {}", clipped(target.dump())));
    all_short = all_short && is_short(found.back());
  }
  if (!names_some(found, names))
    fail(what, "'target_modules' must name linear maps that this model has",
         fmt::format("they are {}", clipped(targets.dump())));
  if (all_short) return found;
  // Longer names become whole ones, in the order of the model.
  const ops::LoraConfig listed{.rank = 1, .targets = std::move(found)};
  std::vector<std::string> whole;
  for (const std::string& name : names)
    if (listed.adapts(name)) whole.push_back(name);
  return whole;
}

/// The pairs of an object, in the order of the file, which counts.
template <class Value>
std::vector<std::pair<std::string, Value>> patterns_of(const std::string& what,
                                                       std::string_view json_text, const char* key,
                                                       double low) {
  std::vector<std::pair<std::string, Value>> pairs;
  const auto config = nlohmann::ordered_json::parse(json_text);
  const auto object = config.find(key);
  if (object == config.end() || object->is_null()) return pairs;
  if (!object->is_object())
    fail(what, fmt::format("'{}' must be an object", key),
         fmt::format("it is {}", clipped(object->dump())));
  for (const auto& [pattern, value] : object->items()) {
    const double number = value.is_number() ? value.template get<double>() : -1.0;
    if (!(number >= low) || (low == 1.0 && (number > 65536.0 || number != std::floor(number))))
      fail(what,
           fmt::format("'{}' must have numbers{}", key,
                       low == 1.0 ? " that are whole, from 1 to 65536" : ""),
           fmt::format("'{}' is {}", clipped(pattern), clipped(value.dump())));
    pairs.emplace_back(pattern, static_cast<Value>(number));
  }
  return pairs;
}

/// Into `lora` where they are names, into `patterns` where they are one.
void read_targets(const std::string& what, const json& config, std::span<const std::string> names,
                  ops::LoraConfig& lora, LoraPatterns& patterns) {
  const auto targets = config.find("target_modules");
  if (targets == config.end() || targets->empty() || !(targets->is_array() || targets->is_string()))
    fail(what,
         fmt::format("'target_modules' must be a list of some of {}, or a pattern",
                     fmt::join(known_linears, ", ")),
         targets == config.end() ? "there is none"
                                 : fmt::format("it is {}", clipped(targets->dump())));
  if (targets->is_array())
    lora.targets = targets_of(what, *targets, names);
  else if (*targets != "all-linear")
    patterns.targets = targets->get<std::string>();
}

}  // namespace

ops::LoraConfig parse_adapter_config(std::string_view json_text, const std::string& what,
                                     std::span<const std::string> names) {
  const json config = parse_strict_json(json_text, what);
  refuse_unsupported(what, config);
  ops::LoraConfig lora;
  const double rank = number(what, config, "r");
  if (!(rank >= 1.0 && rank <= 65536.0) || rank != std::floor(rank))
    fail(what, "'r' must be a whole number from 1 to 65536", fmt::format("it is {}", rank));
  lora.rank = static_cast<Index>(rank);
  lora.alpha = number(what, config, "lora_alpha");
  if (config.contains("lora_dropout")) lora.dropout = number(what, config, "lora_dropout");
  if (!(lora.dropout >= 0.0 && lora.dropout < 1.0))
    fail(what, "'lora_dropout' must be in [0, 1)", fmt::format("it is {}", lora.dropout));
  if (const auto stabilized = config.find("use_rslora"); stabilized != config.end())
    lora.rank_stabilized = boolean_or_null(what, *stabilized, "use_rslora");
  LoraPatterns patterns;
  patterns.ranks = patterns_of<Index>(what, json_text, "rank_pattern", 1.0);
  patterns.alphas = patterns_of<double>(what, json_text, "alpha_pattern", 0.0);
  read_targets(what, config, names, lora, patterns);
  try {
    apply(patterns, lora, names);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(fmt::format("{}: {}", what, error.what()));
  }
  return lora;
}

ops::LoraConfig load_adapter_config(const std::filesystem::path& folder,
                                    std::span<const std::string> names) {
  const std::filesystem::path path = find_config(folder, adapter_format);
  return parse_adapter_config(read_small_file(path, max_config_bytes),
                              fmt::format("'{}'", path.string()), names);
}

namespace {

/// PEFT writes whole numbers as integers.
nlohmann::ordered_json alpha_json(double alpha) {
  if (alpha == std::floor(alpha) && std::abs(alpha) < 1e9) return static_cast<std::int64_t>(alpha);
  return alpha;
}

}  // namespace

std::string adapter_config_json(const ops::LoraConfig& lora, const std::string& base,
                                const std::vector<std::string>& linears) {
  const std::vector<std::string>& targets = lora.targets.empty() ? linears : lora.targets;
  nlohmann::ordered_json config;
  config["peft_type"] = "LORA";
  config["task_type"] = "CAUSAL_LM";
  config["base_model_name_or_path"] = base;
  config["r"] = lora.rank;
  config["lora_alpha"] = alpha_json(lora.alpha);
  config["lora_dropout"] = lora.dropout;
  config["target_modules"] = targets;
  config["bias"] = "none";
  config["fan_in_fan_out"] = false;
  config["inference_mode"] = true;
  if (lora.rank_stabilized) config["use_rslora"] = true;
  // A name is a pattern that matches itself: a dot in it stands for any one character, which no two
  // names differ by alone.
  for (const ops::LoraConfig::Exception& one : lora.exceptions) {
    if (one.rank != lora.rank) config["rank_pattern"][one.name] = one.rank;
    if (one.alpha != lora.alpha) config["alpha_pattern"][one.name] = alpha_json(one.alpha);
  }
  return config.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

template <class T, class Backend>
void load_adapter(const std::filesystem::path& folder, LlamaModel<T, Backend>& model) {
  const std::vector<NamedTensor> tensors = adapter_tensors(model);
  check_folder(folder, tensors, adapter_format);
  const std::string base = fmt::format("{:08x}", model.base_checksum());
  const auto trained_on = find_metadata(folder, adapter_format, base_key);
  if (trained_on && model.base_checksum() != 0 && *trained_on != base)
    throw std::runtime_error(
        fmt::format("the adapter in '{}' must be used with the base that it was trained on, "
                    "weights of CRC-32C {}, but these are of {}; give that model with --model",
                    folder.string(), *trained_on, base));
  load_folder(folder, tensors, adapter_format);
}

template <class T, class Backend>
void save_adapter(const std::filesystem::path& folder, LlamaModel<T, Backend>& model,
                  const std::string& base, DType dtype) {
  std::map<std::string, std::string> metadata;
  if (model.base_checksum() != 0) metadata[base_key] = fmt::format("{:08x}", model.base_checksum());
  save_folder(folder, adapter_format,
              adapter_config_json(model.lora(), base, linears_of(model.config().traits)),
              adapter_tensors(model), dtype, metadata);
}

template void load_adapter(const std::filesystem::path&, LlamaModel<double>&);
#define DROPBP_LLAMA_INSTANTIATE(T, Backend)                                         \
  template void load_adapter(const std::filesystem::path&, LlamaModel<T, Backend>&); \
  template void save_adapter(const std::filesystem::path&, LlamaModel<T, Backend>&,  \
                             const std::string&, DType);
DROPBP_LLAMA_FOR_TRAINED(DROPBP_LLAMA_INSTANTIATE)
#undef DROPBP_LLAMA_INSTANTIATE

}  // namespace llama
