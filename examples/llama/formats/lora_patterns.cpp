// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Matching follows PEFT's check_target_module_exists and get_pattern_key.
#include "llama/formats/lora_patterns.hpp"

#include <algorithm>
#include <regex>
#include <stdexcept>
#include <string_view>

#include <fmt/format.h>

#include "llama/formats/name_regex.hpp"
#include "llama/formats/strict_json.hpp"

namespace llama {
namespace {

std::regex compiled(const std::string& pattern, const char* before = "") {
  try {
    return name_regex(before + ("(?:" + pattern + ")"));
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(fmt::format(
        "a pattern for linear maps must be a regular expression, but '{}' is none: {}; correct it",
        clipped(pattern), error.what()));
  }
}

/// The values that patterns give to names, each pattern compiled once.
template <class Value>
class Chosen {
 public:
  Chosen(const std::vector<std::pair<std::string, Value>>& patterns,
         std::span<const std::string> names) {
    for (const auto& [pattern, value] : patterns) {
      // From the begin of the name or from behind one of its dots.
      const std::regex& one = patterns_.emplace_back(compiled(pattern, "(?:.*\\.)?"), value).first;
      if (std::ranges::none_of(names,
                               [&](const auto& name) { return std::regex_match(name, one); }))
        throw std::runtime_error(fmt::format(
            "a pattern of ranks or alphas must match the end of a linear map's name, such as '{}', "
            "but '{}' matches none; correct it or leave it out",
            names.empty() ? "" : names.front(), pattern));
    }
  }

  [[nodiscard]] Value of(const std::string& name, Value otherwise) const {
    for (const auto& [pattern, value] : patterns_)
      if (std::regex_match(name, pattern)) return value;
    return otherwise;
  }

 private:
  std::vector<std::pair<std::regex, Value>> patterns_;
};

}  // namespace

std::vector<std::string> linear_names(const LlamaConfig& config) {
  std::vector<std::string> names;
  for (std::ptrdiff_t layer = 0; layer < config.layers; ++layer)
    for (const std::string& linear : linears_of(config.traits)) {
      const bool mlp =
          linear.starts_with("gate") || linear.starts_with("up") || linear.starts_with("down");
      names.push_back(
          fmt::format("model.layers.{}.{}.{}", layer, mlp ? "mlp" : "self_attn", linear));
    }
  return names;
}

void apply(const LoraPatterns& patterns, ops::LoraConfig& adaptation,
           std::span<const std::string> linears) {
  if (!patterns.any()) return;
  if (patterns.targets) {
    const std::regex targets = compiled(*patterns.targets);
    std::vector<std::string> chosen;
    for (const std::string& name : linears)
      if (std::regex_match(name, targets)) chosen.push_back(name);
    if (chosen.empty())
      throw std::runtime_error(fmt::format(
          "the pattern of maps with adapters must match a whole name, such as '{}', but '{}' "
          "matches none; a pattern for all of a kind is '.*\\.q_proj'",
          linears.empty() ? "" : linears.front(), *patterns.targets));
    adaptation.targets = chosen;
    const auto of_kind = [](const std::vector<std::string>& names, std::string_view kind) {
      const std::string end = fmt::format(".{}", kind);  // up_proj is the end of gate_up_proj
      return std::ranges::count_if(names, [&](const auto& name) { return name.ends_with(end); });
    };
    // The short form, where it says the same.
    std::vector<std::string> kinds;
    std::ptrdiff_t of_kinds = 0;
    for (const std::string_view kind : ops::adaptable_linears)
      if (const auto count = of_kind(chosen, kind);
          count > 0 && count == of_kind({linears.begin(), linears.end()}, kind))
        kinds.emplace_back(kind), of_kinds += count;
    if (std::cmp_equal(of_kinds, chosen.size())) adaptation.targets = kinds;
  }
  const Chosen<std::ptrdiff_t> ranks(patterns.ranks, linears);
  const Chosen<double> alphas(patterns.alphas, linears);
  for (const std::string& name : linears) {
    if (!adaptation.adapts(name)) continue;
    const ops::LoraConfig::Exception one{.name = name,
                                         .rank = ranks.of(name, adaptation.rank),
                                         .alpha = alphas.of(name, adaptation.alpha)};
    if (one.rank != adaptation.rank || one.alpha != adaptation.alpha)
      adaptation.exceptions.push_back(one);
  }
}

}  // namespace llama
