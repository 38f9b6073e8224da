// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Finding a folder's template in the table, and writing a conversation with its row.
#include "llama/formats/chat_template.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "llama/formats/chat_styles.hpp"
#include "llama/formats/crc32c.hpp"
#include "llama/formats/model_folder.hpp"
#include "llama/formats/strict_json.hpp"

namespace llama {
namespace {

namespace fs = std::filesystem;
using json = nlohmann::json;

bool is_file(const fs::path& path) {
  std::error_code error;
  return fs::is_regular_file(path, error);
}

json tokenizer_config(const fs::path& folder) {
  if (folder.empty()) return json::object();  // a model without a folder
  const fs::path path = find_companion(folder, "tokenizer_config.json");
  if (!is_file(path)) return json::object();
  return parse_strict_json(read_small_file(path), fmt::format("'{}'", path.string()));
}

/// "<s>" of the key; empty where there is none. An object has it as its content.
std::string token_of(const json& config, const char* key) {
  json token = config.value(key, json());
  if (token.is_object()) token = json(token.value("content", json()));
  return token.is_string() ? token.get<std::string>() : std::string();
}

/// A list has several templates, each with a name.
std::string text_of(const json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_array())
    for (const json& one : value)
      if (one.is_object() && one.value("name", json()) == "default" &&
          one.value("template", json()).is_string())
        return one["template"].get<std::string>();
  return {};
}

/// What Python's str.strip() takes away, as the bytes of UTF-8.
constexpr std::string_view spaces[] = {" ",
                                       "\t",
                                       "\n",
                                       "\v",
                                       "\f",
                                       "\r",
                                       "\x1c",
                                       "\x1d",
                                       "\x1e",
                                       "\x1f",
                                       "\xC2\x85",
                                       "\xC2\xA0",
                                       "\xE1\x9A\x80",
                                       "\xE2\x80\x80",
                                       "\xE2\x80\x81",
                                       "\xE2\x80\x82",
                                       "\xE2\x80\x83",
                                       "\xE2\x80\x84",
                                       "\xE2\x80\x85",
                                       "\xE2\x80\x86",
                                       "\xE2\x80\x87",
                                       "\xE2\x80\x88",
                                       "\xE2\x80\x89",
                                       "\xE2\x80\x8A",
                                       "\xE2\x80\xA8",
                                       "\xE2\x80\xA9",
                                       "\xE2\x80\xAF",
                                       "\xE2\x81\x9F",
                                       "\xE3\x80\x80"};

std::string_view trimmed(std::string_view text, bool front = true) {
  const auto cut = [&](auto is_there, auto remove) {
    for (bool found = true; found;) {
      found = false;
      for (const std::string_view space : spaces)
        if (is_there(space)) remove(space.size()), found = true;
    }
  };
  if (front)
    cut([&](std::string_view space) { return text.starts_with(space); },
        [&](std::size_t size) { text.remove_prefix(size); });
  cut([&](std::string_view space) { return text.ends_with(space); },
      [&](std::size_t size) { text.remove_suffix(size); });
  return text;
}

std::string_view without_newlines(std::string_view text, bool front, bool back) {
  while (front && text.starts_with('\n')) text.remove_prefix(1);
  while (back && text.ends_with('\n')) text.remove_suffix(1);
  return text;
}

/// As Qwen3's template writes an answer: its thoughts are kept behind the last question alone, and
/// the last answer has some, empty ones where it came without.
std::string with_thoughts(std::string_view content, bool last, bool behind_question) {
  constexpr std::string_view begin = "<think>", end = "</think>";
  std::string_view thoughts;
  if (const std::size_t at = content.rfind(end); at != std::string_view::npos) {
    thoughts = without_newlines(content.substr(0, content.find(end)), false, true);
    if (const std::size_t from = thoughts.rfind(begin); from != std::string_view::npos)
      thoughts.remove_prefix(from + begin.size());
    thoughts = without_newlines(thoughts, true, false);
    content = without_newlines(content.substr(at + end.size()), true, false);
  }
  if (!behind_question || (!last && thoughts.empty())) return std::string(content);
  return fmt::format("{}\n{}\n{}\n\n{}", begin, without_newlines(thoughts, true, true), end,
                     without_newlines(content, true, false));
}

bool has(std::string_view text, std::string_view word) {
  return text.find(word) != std::string_view::npos;
}

std::string without(std::string text, std::string_view word) {
  for (std::size_t at = 0; (at = text.find(word, at)) != std::string::npos;)
    text.erase(at, word.size());
  return text;
}

struct Framed {
  std::string system;
  bool thinks;
};

/// As SmolLM3's template writes the system message, or what stands for one.
Framed framed(const ReasoningModes& modes, const std::optional<std::string>& message) {
  const std::string given = message.value_or("");
  const bool thinks = !has(given, "/no_think");
  std::string text = without(without(given, "/no_think"), "/think");
  text = std::string(trimmed(text, false));
  if (has(given, "/system_override"))
    return {std::string(trimmed(without(text, "/system_override"), false)) + "<|im_end|>\n",
            thinks};
  if (text.empty()) text = thinks ? modes.thinking : modes.not_thinking;
  return {fmt::format("{}{}{}{}\n\n", modes.head, thinks ? "/think" : "/no_think",
                      modes.instructions, text),
          thinks};
}

const ChatStyle& style_named(std::string_view name) {
  const auto styles = chat_styles();
  const auto found = std::ranges::find(styles, name, &ChatStyle::name);
  if (found == styles.end())
    throw std::runtime_error(fmt::format("a chat template must be one of {}, but '{}' was given",
                                         ChatTemplate::names(), name));
  return *found;
}

[[noreturn]] void fail_roles(std::string_view name, std::string_view required,
                             const std::string& given, std::string_view advice) {
  throw std::runtime_error(
      fmt::format("the chat template {} must have {}, but {}; {}", name, required, given, advice));
}

}  // namespace

ChatTemplate::ChatTemplate(const ChatStyle& style, std::string_view default_system,
                           const fs::path& folder)
    : style_(&style),
      default_system_(default_system.data() != nullptr ? default_system : style.default_system) {
  const json config = tokenizer_config(folder);
  bos_ = token_of(config, "bos_token");
  eos_ = token_of(config, "eos_token");
  const auto require = [&](std::string_view mark, const std::string& token, const char* key) {
    const auto uses = [&](const ChatTurn& turn) {
      return turn.before.find(mark) != std::string_view::npos ||
             turn.close.find(mark) != std::string_view::npos;
    };
    const bool used = uses(style.system) || uses(style.user) || uses(style.assistant) ||
                      style.start == mark || style.end == mark;
    if (used && token.empty())
      throw std::runtime_error(fmt::format(
          "the chat template {} needs the tokenizer's '{}', but '{}' has none; take the file from "
          "the folder of the model",
          style.name, key, (folder / "tokenizer_config.json").string()));
  };
  require("{bos}", bos_, "bos_token");
  require("{eos}", eos_, "eos_token");
}

std::optional<ChatTemplate> ChatTemplate::of_folder(const fs::path& folder) {
  if (folder.empty()) return std::nullopt;
  fs::path source = find_companion(folder, "chat_template.jinja");
  std::string text;
  if (is_file(source)) {
    text = read_small_file(source);
  } else {
    source = find_companion(folder, "tokenizer_config.json");
    text = text_of(tokenizer_config(folder).value("chat_template", json()));
  }
  if (text.empty()) return std::nullopt;
  text.resize(text.find_last_not_of(" \t\r\n") + 1);
  const std::uint32_t sum = crc32c(0, text.data(), text.size());
  if (auto found = known(text.size(), sum, folder)) return found;
  throw std::runtime_error(fmt::format(
      "the chat template of '{}' must be one that this program knows, but its text ({} bytes of "
      "CRC-32C {:08x}) is another; name the one that writes the same with --chat-template ({}), "
      "or render the conversations elsewhere and give them as 'prompt' and 'completion'",
      source.string(), text.size(), sum, names()));
}

std::optional<ChatTemplate> ChatTemplate::known(std::size_t size, std::uint32_t crc32c,
                                                const fs::path& folder) {
  for (const KnownTemplate& one : known_templates())
    if (one.size == size && one.crc32c == crc32c)
      return ChatTemplate(style_named(one.style), one.default_system, folder);
  return std::nullopt;
}

ChatTemplate ChatTemplate::named(std::string_view name, const fs::path& folder) {
  return {style_named(name), {}, folder};
}

std::string ChatTemplate::names() {
  std::string result;
  for (const ChatStyle& style : chat_styles())
    result += fmt::format("{}{}", result.empty() ? "" : ", ", style.name);
  return result;
}

std::string_view ChatTemplate::name() const noexcept { return style_->name; }

std::string ChatTemplate::filled(std::string_view text) const {
  std::string result(text);
  for (const auto& [mark, token] : {std::pair<std::string_view, const std::string&>("{bos}", bos_),
                                    std::pair<std::string_view, const std::string&>("{eos}", eos_)})
    if (const std::size_t at = result.find(mark); at != std::string::npos)
      result.replace(at, mark.size(), token);
  return result;
}

// Each rule with its sentence; they read best in one place.
void ChatTemplate::check_roles(std::span<const Message> messages) const {
  const bool has_system = !messages.empty() && messages.front().role == "system";
  if (has_system && style_->place == SystemPlace::nowhere)
    fail_roles(style_->name, "no message of the role system", "one is there",
               "put its text in front of the user's");
  if (has_system && !messages.front().content.empty() && style_->place == SystemPlace::last_user &&
      messages.back().role != "user")
    fail_roles(style_->name, "its system message in front of the user's last one",
               "an answer follows, and the template would leave the message out",
               "put its text in front of the user's");
  const auto turns = messages.subspan(has_system ? 1 : 0);
  if (has_system && style_->place == SystemPlace::first_user && turns.empty())
    fail_roles(style_->name, "a message of the user behind that of the system", "none is there",
               "add it");
  for (std::size_t i = 0; style_->alternates && i < turns.size(); ++i)
    if ((turns[i].role == "user") != (i % 2 == 0))
      fail_roles(
          style_->name, "user and assistant in turn, the user first",
          fmt::format("message {} is of the {}", i + 1 + (has_system ? 1 : 0), turns[i].role),
          "join messages of one role");
}

void ChatTemplate::write_turn(const ChatTurn& turn, const std::string& content, bool learned,
                              bool last, std::vector<Part>& parts) const {
  const auto write = [&](std::string text, bool is_learned) {
    if (text.empty()) return;
    if (!parts.empty() && parts.back().learned == is_learned)
      parts.back().text += text;
    else
      parts.push_back({std::move(text), is_learned});
  };
  write(filled(turn.before), false);
  write(filled(turn.open) + content + filled(turn.close), learned);
  if (!last || style_->after_last) write(filled(turn.after), false);
}

// A system message that is no turn of its own stands in front of one of the user's.
std::string ChatTemplate::content_of(const Message& message,
                                     const std::optional<std::string>& system) const {
  std::string content = message.content;
  if (style_->trim == Trim::contents) content = std::string(trimmed(content));
  if (system)
    content =
        fmt::format("{}{}{}{}", style_->system.before, *system, style_->system.close, content);
  if (style_->trim == Trim::joined) content = std::string(trimmed(content));
  if (style_->modes != nullptr && message.role == "assistant")
    content = std::string(without_newlines(content, true, false));
  return content;
}

// One function in the order of the text, with the choices that the styles differ in.
std::vector<Part> ChatTemplate::render(std::span<const Message> messages, bool begin_answer) const {
  check_roles(messages);
  std::vector<Part> parts;
  if (!style_->start.empty()) parts.push_back({filled(style_->start), false});

  std::optional<std::string> system;
  if (!messages.empty() && messages.front().role == "system") {
    system = messages.front().content;
    messages = messages.subspan(1);
  } else if (default_system_.data() != nullptr) {
    system = default_system_;
  }
  const ChatTurn* assistant = &style_->assistant;
  if (style_->modes != nullptr) {
    const Framed frame = framed(*style_->modes, std::exchange(system, std::nullopt));
    write_turn(style_->system, frame.system, false, messages.empty(), parts);
    if (!frame.thinks) assistant = &style_->modes->no_thoughts;
  } else if (style_->place == SystemPlace::turn && system) {
    if (style_->trim == Trim::contents) system = std::string(trimmed(*system));
    if (!(system->empty() && style_->drops_empty_system))
      write_turn(style_->system, *system, false, messages.empty(), parts);
    system.reset();
  }

  const auto asks = [](const Message& message) { return message.role == "user"; };
  const auto behind_question =
      std::find_if(messages.rbegin(), messages.rend(), asks).base() - messages.begin();
  const std::size_t joined =
      style_->place == SystemPlace::last_user ? messages.size() - 1 : std::size_t{0};
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const bool answers = messages[i].role == "assistant", last = i + 1 == messages.size();
    std::string content = content_of(messages[i], i == joined && !answers ? system : std::nullopt);
    if (style_->thinks && answers)
      content = with_thoughts(content, last,
                              behind_question > 0 && std::cmp_greater_equal(i, behind_question));
    write_turn(answers ? *assistant : style_->user, content, answers, last, parts);
  }
  const std::string end = filled(begin_answer ? assistant->before : style_->end);
  if (!end.empty()) parts.push_back({end, false});
  return parts;
}

}  // namespace llama
