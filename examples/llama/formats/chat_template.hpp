// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// How a model writes a conversation: the templates that most models use, known by their text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "llama/formats/json_lines.hpp"

namespace llama {

/// A piece of a sample, and whether the model is to learn to write it.
struct Part {
  std::string text;
  bool learned = false;
};

struct ChatStyle;  // a row of the table in chat_styles.hpp
struct ChatTurn;

/// A `chat_template` of Hugging Face is a program in the language Jinja. None is run here: its text
/// is looked up among those of published models, and what it writes is written by a row of a table.
/// Any other text is an error. A template that writes the day's date gets its own fallback, 26 Jul
/// 2024, and SmolLM3's, which has none, 08 July 2025, so that a run can be repeated. Errors are
/// std::runtime_error.
class ChatTemplate {
 public:
  /// That of a model's folder: chat_template.jinja, else the key 'chat_template' of
  /// tokenizer_config.json, which has the tokens of beginning and end too. None where the folder
  /// has no template. Throws for one that is not known, with what to do.
  [[nodiscard]] static std::optional<ChatTemplate> of_folder(const std::filesystem::path& folder);
  /// The published one whose text, without white space at its end, has that many bytes and that
  /// checksum; none where none is known.
  [[nodiscard]] static std::optional<ChatTemplate> known(std::size_t size, std::uint32_t crc32c,
                                                         const std::filesystem::path& folder);
  /// One by its name ("chatml"), with the tokens of the folder's tokenizer_config.json. Throws for
  /// an unknown name, and for a token that the template needs and the folder does not name.
  [[nodiscard]] static ChatTemplate named(std::string_view name,
                                          const std::filesystem::path& folder);
  /// The names, separated by commas.
  [[nodiscard]] static std::string names();

  [[nodiscard]] std::string_view name() const noexcept;

  /// The text of the conversation, as transformers' apply_chat_template writes it, in parts: what
  /// the assistant says, with the token that ends its turn, is learned. With `begin_answer` the
  /// beginning of the assistant's next turn is at the end (add_generation_prompt). Throws for an
  /// order of roles that the template does not allow.
  [[nodiscard]] std::vector<Part> render(std::span<const Message> messages,
                                         bool begin_answer = false) const;

 private:
  ChatTemplate(const ChatStyle& style, std::string_view default_system,
               const std::filesystem::path& folder);
  [[nodiscard]] std::string filled(std::string_view text) const;
  void check_roles(std::span<const Message> messages) const;
  void write_turn(const ChatTurn& turn, const std::string& content, bool learned, bool last,
                  std::vector<Part>& parts) const;
  [[nodiscard]] std::string content_of(const Message& message,
                                       const std::optional<std::string>& system) const;

  const ChatStyle* style_;
  std::string_view default_system_;  // of a conversation without a system message; null: none
  std::string bos_, eos_;
};

}  // namespace llama
