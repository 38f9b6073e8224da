// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Flags of the command line. Values are converted and checked here, so that every message has the
// same three parts; CLI11 splits the line and formats the help.
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "llama/app/errors.hpp"
#include "llama/app/named.hpp"

namespace llama {

/// Edit distance with swaps of neighbours (Damerau-Levenshtein, restricted); case is ignored.
inline std::size_t edit_distance(std::string_view a, std::string_view b) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  std::vector<std::size_t> before, last, now(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) now[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    before = std::exchange(last, now);
    now[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const auto same = [&](std::size_t k, std::size_t l) { return lower(a[k]) == lower(b[l]); };
      now[j] = std::min({last[j] + 1, now[j - 1] + 1, last[j - 1] + !same(i - 1, j - 1)});
      if (i > 1 && j > 1 && same(i - 1, j - 2) && same(i - 2, j - 1))
        now[j] = std::min(now[j], before[j - 2] + 1);
    }
  }
  return now.back();
}

/// The name most similar to `text`; empty if none is similar.
inline std::string_view nearest(std::string_view text, std::span<const std::string_view> names) {
  std::size_t best = 2 + text.size() / 4;  // distances from here on are not similar
  std::string_view found;
  for (const std::string_view name : names) {
    const std::size_t distance = edit_distance(text, name);
    if (distance < std::min(best, name.size())) best = distance, found = name;
  }
  return found;
}

template <typename Number>
std::optional<Number> convert(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// Adds options to the app; each conversion throws UsageError with the flag, the range and the
/// value. Conversions run after the parse, so that --help also works behind a wrong value.
class Flags {
 public:
  using Conversions = std::vector<std::function<void()>>;

  Flags(CLI::App& app, Conversions& conversions) : app_(app), conversions_(conversions) {}

  void group(std::string name) { group_ = std::move(name); }

  CLI::Option* path(const std::string& flag, std::optional<std::filesystem::path>& target,
                    const char* type, const std::string& help) {
    return add(flag, type, help, [flag, &target](const std::string& text) {
      if (text.empty())
        throw UsageError(fmt::format(
            "{} must be a path, but it is empty; give the name of a file or folder", flag));
      // CLI11 takes the next word as the value if the value is empty, as in --out=$UNSET.
      if (text.starts_with("--"))
        throw UsageError(
            fmt::format("{} must be a path, but '{}' was given, which looks like an option; give a "
                        "path after {}, or ./{} for a file of that name",
                        flag, text, flag, text));
      target = text;
    });
  }

  template <typename Integer>
  CLI::Option* integer(const std::string& flag, Integer& target, Integer low, Integer high,
                       const char* unit, const std::string& help, const std::string& zero = {}) {
    const std::string shown = target == 0 && !zero.empty() ? zero : fmt::format("{}", target);
    return add(flag, unit, fmt::format("{} [default {}]", help, shown),
               [=, &target](const std::string& text) {
                 const auto value = convert<Integer>(text);
                 if (!value || *value < low || *value > high) {
                   throw UsageError(fmt::format(
                       "{} must be a whole number from {} to {}, but '{}' was given; try {} {}",
                       flag, low, high, text, flag, std::max(target, low)));
                 }
                 target = *value;
               });
  }

  /// `interval` is its text in messages, "[0, 1]"; `inside` decides and is false for NaN. `none`
  /// describes an empty optional in the help.
  template <typename Inside, typename Target>
  CLI::Option* real(const std::string& flag, Target& target, const char* interval, Inside inside,
                    const char* unit, const std::string& help, const std::string& none = {}) {
    const double shown = std::optional<double>(target).value_or(0.0);
    return add(
        flag, unit,
        fmt::format("{} [default {}]", help, none.empty() ? fmt::format("{}", shown) : none),
        [=, &target](const std::string& text) {
          const auto value = convert<double>(text);
          if (!value || !inside(*value))
            throw UsageError(fmt::format("{} must be a number in {}, but '{}' was given; try {} {}",
                                         flag, interval, text, flag, shown));
          target = *value;
        });
  }

  /// A number as above, or the word "auto", which sets `automatic`.
  template <typename Inside>
  CLI::Option* real_or_auto(const std::string& flag, double& target, bool& automatic,
                            const char* interval, Inside inside, const char* unit,
                            const std::string& help) {
    return add(flag, unit, fmt::format("{} [default {}]", help, target),
               [=, &target, &automatic](const std::string& text) {
                 automatic = text == "auto";
                 if (automatic) return;
                 const auto value = convert<double>(text);
                 if (!value || !inside(*value))
                   throw UsageError(
                       fmt::format("{} must be a number in {} or auto, but '{}' was given; try {} "
                                   "{}",
                                   flag, interval, text, flag, target));
                 target = *value;
               });
  }

  /// `none` describes an empty optional in the help.
  template <typename Choice, std::size_t Size, typename Target>
  CLI::Option* choice(const std::string& flag, Target& target,
                      const std::array<Named<Choice>, Size>& table, const std::string& help,
                      const std::string& none = {}) {
    std::vector<std::string_view> names;
    for (const auto& row : table) names.push_back(row.name);
    const std::string all = fmt::format("{}", fmt::join(names, "|"));
    const std::string_view shown =
        none.empty() ? find_name(table, std::optional<Choice>(target).value_or(table[0].choice))
                     : std::string_view(none);
    return add(flag, all.c_str(), fmt::format("{} [default {}]", help, shown),
               [=, &target](const std::string& text) {
                 for (const auto& row : table) {
                   if (row.name == text) {
                     target = row.choice;
                     return;
                   }
                 }
                 const std::string_view meant = nearest(text, names);
                 throw UsageError(
                     fmt::format("{} must be one of {}, but '{}' was given; {}", flag, all, text,
                                 meant.empty() ? fmt::format("try {} {}", flag, table[0].name)
                                               : fmt::format("did you mean {} {}?", flag, meant)));
               });
  }

  CLI::Option* text(const std::string& flag, std::string& target, const char* type,
                    const std::string& help) {
    return add(flag, type, help, [&target](const std::string& text) { target = text; });
  }

  /// A regular expression, checked by whoever uses it.
  CLI::Option* pattern(const std::string& flag, std::optional<std::string>& target,
                       const std::string& help) {
    return add(flag, "PATTERN", help, [=, &target](const std::string& text) {
      if (text.empty())
        throw UsageError(fmt::format(
            "{} must be a regular expression, but it is empty; try {} '.*\\.q_proj'", flag, flag));
      target = text;
    });
  }

  /// One word, which is looked up where it is used.
  CLI::Option* name(const std::string& flag, std::optional<std::string>& target,
                    const std::string& help) {
    return add(flag, "NAME", help, [flag, &target](const std::string& text) {
      if (text.empty() || text.starts_with("--"))
        throw UsageError(
            fmt::format("{} must be a name, but '{}' was given; see --help", flag, text));
      target = text;
    });
  }

  /// "key=value" pairs separated by commas, in their order.
  template <typename Number>
  CLI::Option* pairs(const std::string& flag, std::vector<std::pair<std::string, Number>>& target,
                     Number low, Number high, const char* type, const std::string& help) {
    return add(flag, type, help, [=, &target](const std::string& text) {
      target.clear();
      for (std::size_t begin = 0; begin <= text.size();) {
        const std::size_t end = std::min(text.find(',', begin), text.size());
        const std::string_view pair = std::string_view(text).substr(begin, end - begin);
        const std::size_t equals = pair.rfind('=');
        const auto value =
            equals == pair.npos ? std::nullopt : convert<Number>(pair.substr(equals + 1));
        if (!value || !(*value >= low && *value <= high) || equals == 0)
          throw UsageError(
              fmt::format("{} must be pairs such as q_proj=8 separated by commas, numbers from {} "
                          "to {}, but '{}' was given; correct '{}'",
                          flag, low, high, text, pair));
        target.emplace_back(pair.substr(0, equals), *value);
        begin = end + 1;
      }
    });
  }

  /// Names out of `known`, separated by commas; `all` alone stands for none.
  CLI::Option* names(const std::string& flag, std::vector<std::string>& target,
                     std::span<const std::string_view> known, const std::string& help,
                     const std::string& all = {}) {
    return add(flag, "NAMES", help, [=, &target](const std::string& text) {
      target.clear();
      if (!all.empty() && text == all) return;
      for (std::size_t begin = 0; begin <= text.size();) {
        const std::size_t end = std::min(text.find(',', begin), text.size());
        const std::string name = text.substr(begin, end - begin);
        if (std::ranges::find(known, name) == known.end()) {
          const std::string_view meant = nearest(name, known);
          throw UsageError(
              fmt::format("{} must be some of {}, separated by commas, but '{}' was given; {}",
                          flag, fmt::join(known, ", "), text,
                          meant.empty() ? fmt::format("try {} {}", flag, fmt::join(known, ","))
                                        : fmt::format("did you mean {}?", meant)));
        }
        target.push_back(name);
        begin = end + 1;
      }
    });
  }

  CLI::Option* toggle(const std::string& flag, bool& target, const std::string& help) {
    return app_.add_flag(flag, target, help + " [default off]")->group(group_);
  }

 private:
  template <typename Function>
  CLI::Option* add(const std::string& flag, const char* type, const std::string& help,
                   Function function) {
    const auto collect = [&conversions = conversions_, function](const std::string& text) {
      conversions.push_back([=] { function(text); });
    };
    return app_.add_option_function<std::string>(flag, collect, help)
        ->type_name(type)
        ->group(group_);
  }

  CLI::App& app_;
  Conversions& conversions_;
  std::string group_;
};

}  // namespace llama
