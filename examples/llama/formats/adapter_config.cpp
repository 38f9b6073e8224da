// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "llama/formats/adapter_config.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <regex>
#include <stdexcept>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "llama/formats/lora_patterns.hpp"
#include "llama/formats/model_folder.hpp"
#include "llama/formats/name_regex.hpp"
#include "llama/formats/strict_json.hpp"

namespace llama {
namespace {

using json = nlohmann::json;

constexpr auto& known_linears = ops::adaptable_linears;

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
                                           "use_rslora",        "use_dora",
                                           "modules_to_save",   "ensure_weight_tying",
                                           "exclude_modules",   "layers_to_transform",
                                           "layers_pattern"};

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
  const auto init = config.find("init_lora_weights");
  const bool eva = init != config.end() && *init == "eva";
  for (const auto& [key, value] : config.items())
    if (!is_nothing(value) && !(eva && key == "eva_config") &&
        std::ranges::find(known_keys, key) == std::ranges::end(known_keys))
      fail(what,
           fmt::format("'{}' must be off or absent, because this program does not support it",
                       clipped(key)),
           fmt::format("it is {}", clipped(value.dump())));
  if (const auto task = config.find("task_type");
      task != config.end() && !is_nothing(*task) && *task != "CAUSAL_LM")
    fail(what, "'task_type' must be \"CAUSAL_LM\"", fmt::format("it is {}", task->dump()));
  // These only describe the initial adapter; other values also change the base, or what is trained.
  if (init != config.end() && !init->is_boolean() && !init->is_null() && *init != "gaussian" &&
      *init != "eva" && *init != "orthogonal")
    fail(what, "'init_lora_weights' must leave the base as it is",
         fmt::format("it is {}", init->dump()));
  if (const auto bias = config.find("bias"); bias != config.end() && *bias != "none")
    fail(what, "'bias' must be \"none\"", fmt::format("it is {}", bias->dump()));
}

/// A string, or each of a list; empty if the key is absent or null.
std::vector<std::string> strings_of(const std::string& what, const json& config, const char* key) {
  const auto value = config.find(key);
  if (value == config.end() || is_nothing(*value)) return {};
  std::vector<std::string> strings;
  const json list = value->is_array() ? *value : json::array({*value});
  for (const json& one : list) {
    if (!one.is_string())
      fail(what, fmt::format("'{}' must be a name or a list of names", key),
           fmt::format("it is {}", clipped(value->dump())));
    strings.push_back(one.get<std::string>());
  }
  return strings;
}

std::regex regex_of(const std::string& what, const char* key, const std::string& pattern) {
  try {
    return name_regex(pattern);
  } catch (const std::runtime_error& error) {
    fail(what, fmt::format("'{}' must have regular expressions", key),
         fmt::format("'{}' is none: {}", clipped(pattern), error.what()));
  }
}

/// The blocks of `layers_to_transform`, which names in a list of targets are looked up in.
class ChosenLayers {
 public:
  ChosenLayers(const std::string& what, const json& config) {
    const auto layers = config.find("layers_to_transform");
    const std::vector<std::string> patterns = strings_of(what, config, "layers_pattern");
    given_ = layers != config.end() && !layers->is_null() && *layers != json::array();
    if (!given_ && !patterns.empty())
      fail(what, "'layers_pattern' needs 'layers_to_transform'", "there is none");
    if (!given_) return;
    for (const json& one : layers->is_array() ? *layers : json::array({*layers})) {
      if (!one.is_number_unsigned())
        fail(what, "'layers_to_transform' must be a whole number or a list of them",
             fmt::format("it is {}", clipped(layers->dump())));
      numbers_.push_back(one.dump());
    }
    if (patterns.empty()) patterns_.emplace_back(R"(.*?\.[^.]*\.(\d+)\..*)");
    for (const std::string& pattern : patterns)
      patterns_.push_back(
          regex_of(what, "layers_pattern", R"((?:.*?\.)?(?:)" + pattern + R"()\.(\d+)\..*)"));
  }

  [[nodiscard]] bool given() const { return given_; }
  [[nodiscard]] bool have(const std::string& name) const {
    for (const std::regex& pattern : patterns_)
      if (std::smatch match; std::regex_match(name, match, pattern))
        return std::ranges::find(numbers_, match[match.size() - 1].str()) != numbers_.end();
    return !given_;
  }

 private:
  bool given_ = false;
  std::vector<std::string> numbers_;
  std::vector<std::regex> patterns_;
};

/// The adapted linear maps; empty for all.
std::vector<std::string> targets_of(const std::string& what, const json& targets,
                                    const ChosenLayers& layers,
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
  if (all_short && !layers.given()) return found;
  // Longer names become whole ones, in the order of the model. Of a name that is whole already,
  // layers_to_transform decides nothing.
  const ops::LoraConfig listed{.rank = 1, .targets = found};
  std::vector<std::string> whole;
  for (const std::string& name : names)
    if (listed.adapts(name) && (layers.have(name) || std::ranges::find(found, name) != found.end()))
      whole.push_back(name);
  if (whole.empty())
    fail(what, "'layers_to_transform' must leave linear maps that this model has",
         "it leaves none");
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
  const ChosenLayers layers(what, config);
  if (targets->is_array())
    lora.targets = targets_of(what, *targets, layers, names);
  else if (layers.given())
    fail(what, "'layers_to_transform' needs a list of 'target_modules'",
         fmt::format("these are {}", clipped(targets->dump())));
  else if (*targets != "all-linear")
    patterns.targets = targets->get<std::string>();
}

/// Takes the adapters of `exclude_modules` away.
void exclude(const std::string& what, const json& config, std::span<const std::string> names,
             ops::LoraConfig& lora) {
  const std::vector<std::string> excluded = strings_of(what, config, "exclude_modules");
  if (excluded.empty()) return;
  const bool pattern = config["exclude_modules"].is_string();
  const ops::LoraConfig ends{.rank = 1, .targets = excluded};
  const std::regex whole =
      pattern ? regex_of(what, "exclude_modules", excluded.front()) : std::regex();
  const auto is_excluded = [&](const std::string& name) {
    return pattern ? std::regex_match(name, whole) : ends.adapts(name);
  };
  std::vector<std::string> rest;
  for (const std::string& name : names)
    if (lora.adapts(name) && !is_excluded(name)) rest.push_back(name);
  if (rest.empty())
    fail(what, "'exclude_modules' must leave some of the adapters", "it leaves none");
  std::erase_if(lora.exceptions, [&](const auto& one) { return is_excluded(one.name); });
  lora.targets = std::move(rest);
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
  lora.rank = static_cast<ops::Index>(rank);
  lora.alpha = number(what, config, "lora_alpha");
  if (config.contains("lora_dropout")) lora.dropout = number(what, config, "lora_dropout");
  if (!(lora.dropout >= 0.0 && lora.dropout < 1.0))
    fail(what, "'lora_dropout' must be in [0, 1)", fmt::format("it is {}", lora.dropout));
  if (const auto stabilized = config.find("use_rslora"); stabilized != config.end())
    lora.rank_stabilized = boolean_or_null(what, *stabilized, "use_rslora");
  if (const auto magnitudes = config.find("use_dora"); magnitudes != config.end())
    lora.magnitudes = boolean_or_null(what, *magnitudes, "use_dora");
  lora.modules_to_save = strings_of(what, config, "modules_to_save");
  LoraPatterns patterns;
  patterns.ranks = patterns_of<ops::Index>(what, json_text, "rank_pattern", 1.0);
  patterns.alphas = patterns_of<double>(what, json_text, "alpha_pattern", 0.0);
  read_targets(what, config, names, lora, patterns);
  try {
    apply(patterns, lora, names);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(fmt::format("{}: {}", what, error.what()));
  }
  exclude(what, config, names, lora);
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

/// With tied weights, the embedding in place of both: PEFT finds the output layer itself.
std::vector<std::string> saved_modules(const ops::LoraConfig& lora, bool tied) {
  std::vector<std::string> modules;
  const auto is_head = [](const std::string& name) {
    return std::string_view("lm_head").ends_with(name);
  };
  for (const std::string& name : lora.modules_to_save)
    if (!tied || !is_head(name)) modules.push_back(name);
  if (tied && modules.size() < lora.modules_to_save.size() &&
      !ops::LoraConfig{.rank = 1, .modules_to_save = modules}.trains("model.embed_tokens.weight"))
    modules.emplace_back("embed_tokens");
  return modules;
}

}  // namespace

std::string adapter_config_json(const ops::LoraConfig& lora, const std::string& base,
                                const LlamaConfig& model) {
  const std::vector<std::string> targets =
      lora.targets.empty() ? linears_of(model.traits) : lora.targets;
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
  if (lora.magnitudes) config["use_dora"] = true;
  if (!lora.modules_to_save.empty()) {
    const auto modules = saved_modules(lora, model.tie_embeddings);
    config["modules_to_save"] = modules;
    if (model.tie_embeddings &&
        ops::LoraConfig{.rank = 1, .modules_to_save = modules}.trains("model.embed_tokens.weight"))
      config["ensure_weight_tying"] = true;
  }
  // A name is a pattern that matches itself: a dot in it stands for any one character, which no two
  // names differ by alone.
  for (const ops::LoraConfig::Exception& one : lora.exceptions) {
    if (one.rank != lora.rank) config["rank_pattern"][one.name] = one.rank;
    if (one.alpha != lora.alpha) config["alpha_pattern"][one.name] = alpha_json(one.alpha);
  }
  return config.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace llama
