// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Strictness on top of nlohmann::json, whose defaults accept duplicate keys, a BOM and text behind
// a NUL byte.
#include "strict_json.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <vector>

#include "file_format.hpp"
#include "input_file.hpp"

namespace llama {
namespace {

[[noreturn]] void fail(const std::string& what, const std::string& given) {
  throw std::runtime_error(
      fmt::format("{} must be one JSON object in UTF-8 without duplicate keys, but {}; the file is "
                  "damaged or of another format, fetch or write it again",
                  what, given));
}

/// nlohmann's "[json.exception.parse_error.101] parse error at ..." without the bracket.
std::string reason_of(const std::exception& error) {
  const std::string text = error.what();
  const auto bracket = text.find("] ");
  return bracket == std::string::npos ? text : text.substr(bracket + 2);
}

}  // namespace

nlohmann::json parse_strict_json(std::string_view text, const std::string& what, int max_depth) {
  if (text.empty()) fail(what, "it is empty");
  if (text.front() != '{') {
    const auto format = format_of(text);
    fail(what, format ? fmt::format("it is {}", format->name) : "it does not begin with '{'");
  }
  // nlohmann takes a NUL byte for the end of the text and would ignore what follows it.
  if (const auto nul = text.find('\0'); nul != std::string_view::npos)
    fail(what, fmt::format("byte {} is a NUL", nul));

  using json = nlohmann::json;
  std::vector<std::set<std::string, std::less<>>> keys;  // of the objects that are open
  // The depth nlohmann passes is that of the enclosing value: 0 for the outermost object itself.
  const auto check = [&](int depth, json::parse_event_t event, json& value) {
    switch (event) {
      case json::parse_event_t::object_start:
      case json::parse_event_t::array_start:
        if (depth >= max_depth)
          fail(what, fmt::format("it is nested more than {} deep", max_depth));
        if (event == json::parse_event_t::object_start) keys.emplace_back();
        break;
      case json::parse_event_t::object_end:
        keys.pop_back();
        break;
      case json::parse_event_t::key:
        if (const auto& key = value.get_ref<const std::string&>();
            !keys.back().insert(key).second) {
          fail(what, fmt::format("the key '{}' occurs twice", key));
        }
        break;
      case json::parse_event_t::array_end:
      case json::parse_event_t::value:
        break;
    }
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), check);
  } catch (const json::exception& error) {
    fail(what, reason_of(error));
  }
}

std::string read_small_file(const std::filesystem::path& path, std::size_t max_bytes) {
  const InputFile file(path);
  if (file.size() > max_bytes) {
    throw std::runtime_error(
        fmt::format("'{}' must be at most {} bytes, but it has {}; it is not a file of this kind, "
                    "check the path",
                    path.string(), max_bytes, file.size()));
  }
  std::string text(static_cast<std::size_t>(file.size()), '\0');
  file.read(0, text.data(), text.size());
  return text;
}

}  // namespace llama
