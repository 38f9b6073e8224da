// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Stricter parsing with nlohmann::json, whose defaults accept duplicate keys, a BOM and text behind
// a NUL byte.
#include "llama/formats/strict_json.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>
#include <vector>

#include "llama/formats/file_format.hpp"
#include "llama/formats/input_file.hpp"

namespace llama {
namespace {

[[noreturn]] void fail(const std::string& what, const std::string& given) {
  throw std::runtime_error(
      fmt::format("{} must be one JSON object in UTF-8 without duplicate keys, but {}; the file is "
                  "damaged or of another format, fetch or write it again",
                  what, given));
}

/// The message of nlohmann's exception without its prefix in brackets.
std::string reason_of(const std::exception& error) {
  const std::string text = error.what();
  const auto bracket = text.find("] ");
  return bracket == std::string::npos ? text : text.substr(bracket + 2);
}

using json = nlohmann::json;

/// Builds values from the parser's events. nlohmann's own builder with a callback searches the
/// enclosing object at the end of each value, so that a large header takes minutes, and it accepts
/// duplicate keys.
class Builder final : public nlohmann::json_sax<json> {
 public:
  using Visit = std::function<void(const std::string&, json&&)>;

  /// With `visit`, the members of the outermost object are passed to it, and the object stays
  /// empty.
  Builder(const std::string& what, int max_depth, std::size_t max_values, const Visit* visit)
      : what_(what),
        max_depth_(static_cast<std::size_t>(max_depth)),
        max_values_(max_values),
        visit_(visit) {}

  json take() { return std::move(root_); }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return false; }  // not in JSON
  bool start_object(std::size_t) override { return open(json::object()); }
  bool start_array(std::size_t) override { return open(json::array()); }
  bool end_object() override {
    if (open_.size() == 1) check_members();
    return close();
  }
  bool end_array() override { return close(); }

  bool key(string_t& key) override {
    if (visits()) {
      members_ += key;
      member_ends_.push_back(members_.size());
      member_ = std::move(key);
      values_ = 0;
      slot_ = &value_;
      return true;
    }
    const auto [entry, is_new] = open_.back()->get_ref<json::object_t&>().emplace(key, nullptr);
    if (!is_new) fail_twice(key);
    slot_ = &entry->second;
    return true;
  }

  bool parse_error(std::size_t, const std::string&,
                   const nlohmann::detail::exception& error) override {
    fail(what_, clipped(reason_of(error)));
  }

 private:
  /// Whether the next value goes to `visit_`.
  bool visits() const { return visit_ != nullptr && open_.size() == 1; }

  json& place() {
    if (++values_ > max_values_)
      throw std::runtime_error(
          fmt::format("{} must have members of at most {} values each, but '{}' has more; the file "
                      "is damaged or of another format, fetch or write it again",
                      what_, max_values_, clipped(member_)));
    if (open_.empty()) return root_;
    if (!open_.back()->is_array()) return *slot_;
    auto& elements = open_.back()->get_ref<json::array_t&>();
    return elements.emplace_back();
  }
  bool add(json value) {
    place() = std::move(value);
    if (visits()) hand_over();
    return true;
  }
  bool open(json value) {
    if (open_.size() >= max_depth_)
      fail(what_, fmt::format("it is nested more than {} deep", max_depth_));
    json& here = place();
    here = std::move(value);
    open_.push_back(&here);
    return true;
  }
  bool close() {
    open_.pop_back();
    if (visits()) hand_over();
    return true;
  }
  void hand_over() {
    (*visit_)(member_, std::move(value_));
    value_ = nullptr;
  }

  [[noreturn]] void fail_twice(std::string_view key) const {
    fail(what_, fmt::format("the key '{}' occurs twice", clipped(std::string(key))));
  }
  void check_members() const {
    std::vector<std::string_view> names;
    names.reserve(member_ends_.size());
    std::size_t begin = 0;
    for (const std::size_t end : member_ends_) {
      names.push_back(std::string_view(members_).substr(begin, end - begin));
      begin = end;
    }
    std::ranges::sort(names);
    if (const auto twice = std::ranges::adjacent_find(names); twice != names.end())
      fail_twice(*twice);
  }

  const std::string& what_;
  std::size_t max_depth_, max_values_;
  const Visit* visit_;
  json root_, value_;
  std::vector<json*> open_;  // objects and arrays, from the outermost
  json* slot_ = nullptr;     // where the value of the last key goes
  std::size_t values_ = 0;   // JSON values in this member or, without `visit_`, in all
  std::string member_;
  std::string members_;  // all keys of the outermost object so far, concatenated
  std::vector<std::size_t> member_ends_;
};

json parse(std::string_view text, const std::string& what, int max_depth, std::size_t max_values,
           const Builder::Visit* visit) {
  if (text.empty()) fail(what, "it is empty");
  if (text.front() != '{') {
    const auto format = format_of(text);
    fail(what, format ? fmt::format("it is {}", format->name) : "it does not begin with '{'");
  }
  // nlohmann ends the text at a NUL byte and would ignore the rest.
  if (const auto nul = text.find('\0'); nul != std::string_view::npos)
    fail(what, fmt::format("byte {} is a NUL", nul));
  Builder builder(what, max_depth, max_values, visit);
  json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

}  // namespace

json parse_strict_json(std::string_view text, const std::string& what, int max_depth) {
  return parse(text, what, max_depth, std::numeric_limits<std::size_t>::max(), nullptr);
}

void for_each_member(std::string_view text, const std::string& what, int max_depth,
                     std::size_t max_values,
                     const std::function<void(const std::string& key, json&& value)>& visit) {
  (void)parse(text, what, max_depth, max_values, &visit);
}

std::string clipped(std::string text, std::size_t limit) {
  if (text.size() <= limit) return text;
  while (limit > 0 && (static_cast<unsigned char>(text[limit]) & 0xc0u) == 0x80u) --limit;
  text.resize(limit);
  return text + "...";
}

std::string read_small_file(const std::filesystem::path& path, std::size_t max_bytes) {
  const InputFile file(path);
  if (file.size() > max_bytes) {
    throw std::runtime_error(
        fmt::format("'{}' must be at most {} bytes, but it has {}; it is not a file of this kind; "
                    "check the path",
                    path.string(), max_bytes, file.size()));
  }
  std::string text(static_cast<std::size_t>(file.size()), '\0');
  file.read(0, text.data(), text.size());
  return text;
}

}  // namespace llama
