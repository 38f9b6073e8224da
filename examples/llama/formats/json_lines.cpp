// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Which keys make which form, and reading a file line by line.
#include "llama/formats/json_lines.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

#include "llama/formats/file_format.hpp"
#include "llama/formats/input_file.hpp"
#include "llama/formats/strict_json.hpp"

namespace llama {
namespace {

using json = nlohmann::json;

constexpr std::string_view forms =
    "'messages', 'prompt' and 'completion', 'instruction' and 'output' (and 'input'), or 'text'";

[[noreturn]] void fail(const std::string& what, std::string_view required, const std::string& given,
                       std::string_view advice) {
  throw std::runtime_error(
      fmt::format("{} must have {}, but {}; {}", what, required, given, advice));
}

std::string shown(const json& value) {
  return value.is_null() ? "null or missing" : clipped(value.dump(-1, ' ', true), 60);
}

std::string string_at(const json& object, const char* key, const std::string& what) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_string())
    fail(what, fmt::format("a string as '{}'", key),
         fmt::format("it is {}", found == object.end() ? "missing" : shown(*found)),
         "repair the line or take it out");
  return found->get<std::string>();
}

std::vector<Message> messages_of(const json& list, const std::string& what) {
  constexpr std::string_view repair = "repair the line or take it out";
  if (!list.is_array() || list.empty())
    fail(what, "a list of messages as 'messages'", fmt::format("it is {}", shown(list)), repair);
  std::vector<Message> messages;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const std::string where = fmt::format("message {} of {}", i + 1, what);
    if (!list[i].is_object())
      fail(where, "an object's role and content", fmt::format("it is {}", shown(list[i])), repair);
    Message message{string_at(list[i], "role", where), string_at(list[i], "content", where)};
    const bool known =
        message.role == "user" || message.role == "assistant" || message.role == "system";
    if (!known)
      fail(where, "the role system, user or assistant", fmt::format("it is '{}'", message.role),
           "tool calls are not supported; take the line out");
    if (message.role == "system" && i > 0)
      fail(where, "the role user or assistant behind the first one", "it is 'system'", repair);
    if (const auto calls = list[i].find("tool_calls"); calls != list[i].end() && !calls->is_null())
      fail(where, "text alone", "it has 'tool_calls'",
           "tool calls are not supported; take the line out");
    messages.push_back(std::move(message));
  }
  const auto answers = [](const Message& message) { return message.role == "assistant"; };
  if (std::ranges::none_of(messages, answers))
    fail(what, "a message of the role assistant", "none is in it", repair);
  return messages;
}

std::string keys_of(const json& object) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : object.items()) {
    if (keys.size() == 8) {
      keys.emplace_back("...");
      break;
    }
    keys.push_back(fmt::format("'{}'", clipped(key, 40)));
  }
  return keys.empty() ? "none is there" : fmt::format("the line has {}", fmt::join(keys, ", "));
}

/// The next line without its end, and the position of the one behind it.
std::pair<std::string_view, std::size_t> line_at(std::string_view text, std::size_t at) {
  const std::size_t end = std::min(text.find('\n', at), text.size());
  std::string_view line = text.substr(at, end - at);
  if (line.ends_with('\r')) line.remove_suffix(1);
  return {line, end + 1};
}

}  // namespace

std::string_view name_of(RecordForm form) noexcept {
  switch (form) {
    case RecordForm::messages:
      return "messages";
    case RecordForm::completion:
      return "prompt and completion";
    case RecordForm::instruction:
      return "instruction and output";
    case RecordForm::text:
      break;
  }
  return "text";
}

Record parse_record(std::string_view line, const std::string& what) {
  const json object = parse_strict_json(line, what);
  const auto has = [&](const char* key) { return object.contains(key); };
  Record record;
  if (has("messages")) {
    record.form = RecordForm::messages;
    record.messages = messages_of(object["messages"], what);
    if (has("tools") && !object["tools"].is_null() && !object["tools"].empty())
      fail(what, "messages without 'tools'", "it has some",
           "tool calls are not supported; take the line out");
  } else if (has("prompt") && has("completion")) {
    record.form = RecordForm::completion;
    record.prompt = string_at(object, "prompt", what);
    record.completion = string_at(object, "completion", what);
  } else if (has("instruction") && has("output")) {
    record.form = RecordForm::instruction;
    record.instruction = string_at(object, "instruction", what);
    if (has("input") && !object["input"].is_null()) record.input = string_at(object, "input", what);
    record.output = string_at(object, "output", what);
  } else if (has("text")) {
    record.text = string_at(object, "text", what);
  } else {
    fail(what, fmt::format("the keys {}", forms), keys_of(object),
         "rename the keys of your data to these");
  }
  return record;
}

bool named_json_lines(const std::filesystem::path& file) {
  return file.extension() == ".jsonl" || file.extension() == ".ndjson";
}

JsonLines read_json_lines(const std::filesystem::path& path, std::uintmax_t max_bytes) {
  const InputFile file(path);
  std::string text(static_cast<std::size_t>(file.size()), '\0');
  file.read(0, text.data(), text.size());
  const auto format = format_of(text);
  if (format && format->name != json_lines_name)
    throw std::runtime_error(fmt::format("'{}' must be JSON lines, one object a line, but it is {}",
                                         path.string(), format->name));
  JsonLines result;
  std::string_view rest = text;
  if (rest.starts_with("\xEF\xBB\xBF")) rest.remove_prefix(3);
  std::size_t number = 0;
  for (std::size_t at = 0; at < rest.size();) {
    if (at >= max_bytes) {
      result.complete = false;
      break;
    }
    const auto [line, next] = line_at(rest, at);
    ++number;
    at = next;
    const std::size_t begin = line.find_first_not_of(" \t");
    if (begin == std::string_view::npos) continue;
    result.records.push_back(
        parse_record(line.substr(begin), fmt::format("line {} of '{}'", number, path.string())));
    result.records.back().line = number;
    result.bytes = std::min<std::uintmax_t>(at, rest.size());
  }
  return result;
}

}  // namespace llama
