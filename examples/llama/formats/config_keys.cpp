// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "llama/formats/config_keys.hpp"

#include <fmt/format.h>

#include <cstdint>
#include <limits>
#include <stdexcept>

#include "llama/formats/strict_json.hpp"

namespace llama {

using nlohmann::json;

void fail_config(const std::string& what, const std::string& required, const std::string& given,
                 const std::string& advice) {
  throw std::runtime_error(fmt::format("{}: {}, but {}; {}", what, required, given, advice));
}

void fail_unsupported(const std::string& what, std::string_view key, const json& value,
                      std::string_view required) {
  fail_config(what, fmt::format("'{}' must be {}", key, required),
              fmt::format("it is {}", clipped(value.dump())),
              "this program does not support such a model; choose another one");
}

const json* find_key(const json& object, std::string_view key) {
  const auto member = object.find(key);
  return member == object.end() || member->is_null() ? nullptr : &*member;
}

bool is_off(const json& value) {
  return value.is_null() || value == false || value == "" ||
         (value.is_structured() && value.empty());
}

std::optional<std::ptrdiff_t> integer_key(const std::string& what, const json& object,
                                          std::string_view key) {
  const json* value = find_key(object, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number_unsigned() ||
      value->get<std::uint64_t>() >
          static_cast<std::uint64_t>(std::numeric_limits<std::ptrdiff_t>::max()))
    fail_config(what, fmt::format("'{}' must be a whole number", key),
                fmt::format("it is {}", clipped(value->dump())), "correct it");
  return static_cast<std::ptrdiff_t>(value->get<std::uint64_t>());
}

std::ptrdiff_t required_integer_key(const std::string& what, const json& object,
                                    std::string_view key) {
  const auto value = integer_key(what, object, key);
  if (!value)
    fail_config(what, fmt::format("'{}' must be given", key), "it is missing",
                "use the config.json that belongs to the weights");
  return *value;
}

std::optional<double> number_key(const std::string& what, const json& object,
                                 std::string_view key) {
  const json* value = find_key(object, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number())
    fail_config(what, fmt::format("'{}' must be a number", key),
                fmt::format("it is {}", clipped(value->dump())), "correct it");
  return value->get<double>();
}

std::optional<bool> boolean_key(const std::string& what, const json& object, std::string_view key) {
  const json* value = find_key(object, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean())
    fail_config(what, fmt::format("'{}' must be true or false", key),
                fmt::format("it is {}", clipped(value->dump())), "correct it");
  return value->get<bool>();
}

}  // namespace llama
