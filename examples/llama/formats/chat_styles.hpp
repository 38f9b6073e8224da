// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The table behind ChatTemplate: what each kind of template writes around the messages, and by
// which lengths and checksums the published templates are known.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace llama {

/// What stands around the content of a message. "{bos}" and "{eos}" stand for the tokenizer's.
struct ChatTurn {
  std::string_view before;      ///< the role's header
  std::string_view open;        ///< learned with the content where the content is
  std::string_view close;       ///< learned likewise: the end of the turn
  std::string_view after = {};  ///< between this turn and the next
};

enum class SystemPlace {
  turn,        ///< a turn of its own
  first_user,  ///< in front of the first message of the user
  last_user,   ///< in front of the last message, where that is the user's
  nowhere      ///< refused
};

/// Which text loses the white space around it.
enum class Trim { nothing, contents, joined };  ///< joined: with the system message in front

/// SmolLM3: the system message stands in a frame. It says whether the model thinks ("/think", else
/// "/no_think"; these words are taken out), or replaces the frame ("/system_override").
struct ReasoningModes {
  std::string_view head;                    ///< in front of the mode
  std::string_view instructions;            ///< between the mode and the system message
  std::string_view thinking, not_thinking;  ///< in place of a system message, by mode
  ChatTurn no_thoughts;                     ///< the assistant's, where it does not think
};

struct ChatStyle {
  std::string_view name;
  std::string_view start;  ///< in front of all
  ChatTurn system, user, assistant;
  SystemPlace place = SystemPlace::turn;
  Trim trim = Trim::nothing;
  std::string_view default_system = {};  ///< where the conversation has none; null: no turn
  bool alternates = false;               ///< user and assistant must take turns, the user first
  bool after_last = true;                ///< whether the last turn has its `after`
  bool thinks = false;  ///< Qwen3: an answer to the last question begins with its thoughts
  const ReasoningModes* modes = nullptr;
  bool drops_empty_system = false;
  std::string_view end = {};  ///< behind all, unless an answer is begun
};

/// A published template: its bytes without white space at the end.
struct KnownTemplate {
  std::size_t size;
  std::uint32_t crc32c;
  std::string_view style;
  std::string_view default_system = {};  ///< in place of the style's
};

[[nodiscard]] std::span<const ChatStyle> chat_styles() noexcept;
[[nodiscard]] std::span<const KnownTemplate> known_templates() noexcept;

}  // namespace llama
