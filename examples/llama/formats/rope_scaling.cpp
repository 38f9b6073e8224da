// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "llama/formats/rope_scaling.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>
#include <optional>
#include <string_view>

#include "llama/formats/config_keys.hpp"
#include "llama/formats/strict_json.hpp"

namespace llama {
namespace {

using nlohmann::json;
using Kind = RopeScaling::Kind;

/// A kind by its name in config.json, and the keys that it reads.
struct KindOfRope {
  std::string_view name;
  Kind kind;
  std::vector<std::string_view> keys;
};
const std::vector<KindOfRope>& kinds() {
  static const std::vector<KindOfRope> table{
      {"default", Kind::plain, {}},
      {"linear", Kind::linear, {"factor"}},
      {"dynamic", Kind::dynamic, {"factor"}},
      {"llama3", Kind::llama3, {"factor", "low_freq_factor", "high_freq_factor"}},
      {"yarn",
       Kind::yarn,
       {"factor", "beta_fast", "beta_slow", "truncate", "attention_factor", "mscale",
        "mscale_all_dim"}},
      {"longrope", Kind::longrope, {"factor", "short_factor", "long_factor", "attention_factor"}},
      {"su", Kind::longrope, {"factor", "short_factor", "long_factor", "attention_factor"}},
  };
  return table;
}

/// The objects in which RoPE's settings are found: at the top, or as newer transformers write them.
struct Place {
  std::string name;  // "" for the top
  const json& object;

  std::string key(std::string_view key) const {
    return name.empty() ? fmt::format("'{}'", key) : fmt::format("'{}.{}'", name, key);
  }
};

std::string required_kind() {
  std::vector<std::string_view> names;
  for (const KindOfRope& one : kinds())
    if (one.name != "su") names.push_back(one.name);
  return fmt::format("null or of a rope_type among {}", fmt::join(names, ", "));
}

std::vector<Place> places_of(const std::string& what, const json& root,
                             const std::string& layer_type) {
  std::vector<Place> places{{"", root}};
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    const json* rope = find_key(root, name);
    if (rope == nullptr || is_off(*rope)) continue;
    if (!rope->is_object()) fail_unsupported(what, name, *rope, required_kind());
    // One object for each type of layer, which need not all be there.
    const auto is_object = [](const json& member) { return member.is_object(); };
    if (layer_type.empty() || !std::ranges::any_of(*rope, is_object))
      places.push_back({name, *rope});
    else if (const json* const own = find_key(*rope, layer_type))
      places.push_back({fmt::format("{}.{}", name, layer_type), *own});
  }
  return places;
}

/// The value that all places which have it must have alike.
template <class Read>
auto common_value(const std::string& what, const std::vector<Place>& places, std::string_view key,
                  const Read& read) -> decltype(read(what, places.front().object, key)) {
  decltype(read(what, places.front().object, key)) common;
  std::string where;
  for (const Place& place : places) {
    const auto value = read(what, place.object, key);
    if (!value) continue;
    if (common && *common != *value)
      fail_config(what, fmt::format("'{}' must be the same wherever it is given", key),
                  fmt::format("{} is {} and {} is {}", where, *common, place.key(key), *value),
                  "correct the one that the weights were not made with");
    common = value;
    if (where.empty()) where = place.key(key);
  }
  return common;
}

/// Of one place, the kind it names; none where it names none.
const KindOfRope* kind_of(const std::string& what, const Place& place) {
  const KindOfRope* found = nullptr;
  for (const char* key : {"rope_type", "type"}) {
    const json* const name = find_key(place.object, key);
    if (name == nullptr) continue;
    const auto kind =
        std::ranges::find_if(kinds(), [&](const KindOfRope& one) { return *name == one.name; });
    if (kind == kinds().end() || (found != nullptr && found->kind != kind->kind))
      fail_config(what, fmt::format("'{}' must be {}", place.name, required_kind()),
                  fmt::format("its '{}' is {} in {}", key, clipped(name->dump()),
                              clipped(place.object.dump())),
                  "this program does not support such a model; choose another one");
    found = &*kind;
  }
  return found;
}

/// Whether a key says what the kind does without it, or is read elsewhere.
bool is_known(const KindOfRope& kind, std::string_view key, const json& value) {
  if (key == "rope_theta" || key == "partial_rotary_factor" || key == "rope_type" ||
      key == "type" || key == "original_max_position_embeddings" || is_off(value))
    return true;
  if (std::ranges::find(kind.keys, key) != kind.keys.end()) return true;
  return (key == "factor" || key == "attention_factor" || key == "attention_scaling") && value == 1;
}

const KindOfRope& kind_of(const std::string& what, const std::vector<Place>& places) {
  const KindOfRope* found = &kinds().front();
  for (const Place& place : places) {
    if (place.name.empty()) continue;
    if (const KindOfRope* const named = kind_of(what, place)) found = named;
  }
  for (const Place& place : places) {
    if (place.name.empty()) continue;
    for (const auto& [key, value] : place.object.items())
      if (!is_known(*found, key, value))
        fail_config(what, fmt::format("'{}' must be {}", place.name, required_kind()),
                    fmt::format("its '{}' is {} in {}", key, clipped(value.dump()),
                                clipped(place.object.dump())),
                    "this program does not support such a model; choose another one");
  }
  return *found;
}

std::optional<std::vector<double>> numbers_key(const std::string& what, const json& object,
                                               std::string_view key) {
  const json* const list = find_key(object, key);
  if (list == nullptr) return std::nullopt;
  const auto is_factor = [](const json& value) {
    return value.is_number() && value.get<double>() > 0.0;
  };
  if (!list->is_array() || !std::ranges::all_of(*list, is_factor))
    fail_config(what, fmt::format("'{}' must be a list of numbers above 0", key),
                fmt::format("it is {}", clipped(list->dump())), "correct it");
  return list->get<std::vector<double>>();
}

/// Reads the keys of one kind.
class Reader {
 public:
  Reader(const std::string& what, const std::vector<Place>& places)
      : what_(what), places_(places) {}

  std::optional<double> number(std::string_view key) const {
    return common_value(what_, places_, key, number_key);
  }
  std::optional<std::ptrdiff_t> integer(std::string_view key) const {
    return common_value(what_, places_, key, integer_key);
  }
  std::optional<bool> boolean(std::string_view key) const {
    return common_value(what_, places_, key, boolean_key);
  }
  double above_0(std::string_view key, std::optional<double> otherwise = std::nullopt) const {
    const auto value = number(key);
    if ((value && std::isfinite(*value) && *value > 0.0) || (!value && otherwise))
      return value.value_or(otherwise.value_or(0.0));
    fail_config(what_, fmt::format("RoPE's '{}' must be a number above 0", key),
                value ? fmt::format("it is {}", *value) : std::string("it is missing"),
                "use the config.json that belongs to the weights");
  }
  std::vector<double> factors(std::string_view key, std::ptrdiff_t count) const {
    auto list = common_value(what_, places_, key, numbers_key);
    if (!list || static_cast<std::ptrdiff_t>(list->size()) != count)
      fail_config(
          what_,
          fmt::format("RoPE's '{}' must be a list of one number for each of {} pairs", key, count),
          list ? fmt::format("it has {}", list->size()) : std::string("it is missing"),
          "use the config.json that belongs to the weights");
    return *list;
  }

 private:
  const std::string& what_;
  const std::vector<Place>& places_;
};

/// YaRN's own temperature where no factor of attention is given.
double yarn_attention(const Reader& read, double factor) {
  const auto temperature = [factor](double scale) {
    return factor <= 1.0 ? 1.0 : 0.1 * scale * std::log(factor) + 1.0;
  };
  const auto scale = read.number("mscale"), all = read.number("mscale_all_dim");
  if (scale && all && *scale != 0.0 && *all != 0.0) return temperature(*scale) / temperature(*all);
  return temperature(1.0);
}

void read_yarn(const Reader& read, RopeScaling& scaling, std::ptrdiff_t max_positions) {
  scaling.factor = read.above_0("factor", static_cast<double>(max_positions) /
                                              static_cast<double>(scaling.original_positions));
  scaling.beta_fast = read.above_0("beta_fast", 32.0);
  scaling.beta_slow = read.above_0("beta_slow", 1.0);
  scaling.truncate = read.boolean("truncate").value_or(true);
  scaling.attention = read.above_0("attention_factor", yarn_attention(read, scaling.factor));
}

void read_longrope(const Reader& read, RopeScaling& scaling, std::ptrdiff_t max_positions,
                   std::ptrdiff_t rotary) {
  scaling.short_factors = read.factors("short_factor", rotary / 2);
  scaling.long_factors = read.factors("long_factor", rotary / 2);
  scaling.factor = read.above_0("factor", static_cast<double>(max_positions) /
                                              static_cast<double>(scaling.original_positions));
  const double natural =
      scaling.factor <= 1.0
          ? 1.0
          : std::sqrt(1.0 + std::log(scaling.factor) /
                                std::log(static_cast<double>(scaling.original_positions)));
  scaling.attention = read.above_0("attention_factor", natural);
}

}  // namespace

RopeSettings read_rope(const std::string& what, const json& root, const RopeOf& of) {
  const std::vector<Place> places = places_of(what, root, of.layer_type);
  const Reader read(what, places);
  RopeSettings settings;
  RopeScaling& scaling = settings.scaling;
  scaling.kind = kind_of(what, places).kind;
  settings.theta = read.number("rope_theta").value_or(of.theta);
  settings.partial = read.above_0("partial_rotary_factor", 1.0);
  if (settings.partial > 1.0)
    fail_config(what, "'partial_rotary_factor' must be at most 1",
                fmt::format("it is {}", settings.partial), "correct it");
  if (scaling.kind == Kind::plain) return settings;
  scaling.original_positions =
      read.integer("original_max_position_embeddings")
          .value_or(of.original_positions == 0 ? of.max_positions : of.original_positions);
  if (scaling.kind == Kind::dynamic) scaling.original_positions = of.max_positions;
  if (scaling.original_positions < 2)
    fail_config(what, "'original_max_position_embeddings' must be at least 2",
                fmt::format("it is {}", scaling.original_positions), "correct it");
  const auto rotary =
      static_cast<std::ptrdiff_t>(static_cast<double>(of.head_size) * settings.partial);
  if (scaling.kind == Kind::longrope)
    read_longrope(read, scaling, of.max_positions, rotary);
  else if (scaling.kind == Kind::yarn)
    read_yarn(read, scaling, of.max_positions);
  else
    scaling.factor = read.above_0("factor");
  if (scaling.kind == Kind::llama3) {
    scaling.low_frequency = read.above_0("low_freq_factor");
    scaling.high_frequency = read.above_0("high_freq_factor");
  }
  return settings;
}

namespace {

/// Low frequencies, which turn less than once in `low_frequency`-th of the original positions, are
/// divided by the factor; those between the two bounds in part.
double llama3_frequency(const RopeScaling& scaling, double frequency) {
  const double turns =
      static_cast<double>(scaling.original_positions) * frequency / (2.0 * std::numbers::pi);
  if (turns < scaling.low_frequency) return frequency / scaling.factor;
  if (turns > scaling.high_frequency) return frequency;
  const double share =
      (turns - scaling.low_frequency) / (scaling.high_frequency - scaling.low_frequency);
  return (1.0 - share) * frequency / scaling.factor + share * frequency;
}

/// Pairs below the lower bound keep their frequency, those above the upper one are divided by the
/// factor, between them it goes over.
std::vector<double> yarn_frequencies(const RopeScaling& scaling, double theta,
                                     std::vector<double> frequencies) {
  const auto size = static_cast<double>(2 * frequencies.size());
  const auto pair_of = [&](double turns) {
    return size *
           std::log(static_cast<double>(scaling.original_positions) /
                    (turns * 2.0 * std::numbers::pi)) /
           (2.0 * std::log(theta));
  };
  double low = pair_of(scaling.beta_fast), high = pair_of(scaling.beta_slow);
  if (scaling.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0), high = std::min(high, size - 1.0);
  if (low == high) high += 0.001;
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequencies[i] = frequencies[i] / scaling.factor * ramp + frequencies[i] * (1.0 - ramp);
  }
  return frequencies;
}

}  // namespace

std::vector<double> rope_frequencies(const RopeScaling& scaling, double theta,
                                     std::ptrdiff_t rotary, std::ptrdiff_t sequence) {
  const auto size = static_cast<double>(rotary);
  if (scaling.kind == Kind::dynamic && sequence > scaling.original_positions) {
    const double stretch =
        static_cast<double>(sequence) / static_cast<double>(scaling.original_positions);
    theta *= std::pow(scaling.factor * stretch - (scaling.factor - 1.0), size / (size - 2.0));
  }
  std::vector<double> frequencies;
  for (std::ptrdiff_t i = 0; i < rotary / 2; ++i)
    frequencies.push_back(std::pow(theta, -2.0 * static_cast<double>(i) / size));
  if (scaling.kind == Kind::yarn) return yarn_frequencies(scaling, theta, std::move(frequencies));
  const std::vector<double>& factors =
      sequence > scaling.original_positions ? scaling.long_factors : scaling.short_factors;
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    if (scaling.kind == Kind::linear) frequencies[i] /= scaling.factor;
    if (scaling.kind == Kind::llama3) frequencies[i] = llama3_frequency(scaling, frequencies[i]);
    if (scaling.kind == Kind::longrope) frequencies[i] /= factors[i];
  }
  return frequencies;
}

}  // namespace llama
