// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Samples to fine-tune on, as JSON lines: one object a line, in one of four usual forms.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace llama {

/// A turn of a conversation.
struct Message {
  std::string role;  ///< system, user or assistant
  std::string content;
};

/// Which keys a line has, in the order in which they are looked for. Other keys are not read.
enum class RecordForm {
  messages,     ///< messages: a list of objects with role and content
  completion,   ///< prompt, completion
  instruction,  ///< instruction, output and, where there is one, input, as of Alpaca
  text          ///< text
};
[[nodiscard]] std::string_view name_of(RecordForm form) noexcept;

/// One line. Of its members those of the form are set.
struct Record {
  RecordForm form = RecordForm::text;
  std::string text;
  std::string prompt, completion;
  std::string instruction, input, output;
  std::vector<Message> messages;
  std::size_t line = 0;  ///< of the file, from 1
};

/// The record of one line. `what` names it in messages ("line 3 of 'x.jsonl'"). Throws
/// std::runtime_error which says what was expected.
[[nodiscard]] Record parse_record(std::string_view line, const std::string& what);

/// Whether the name ends as that of JSON lines does: .jsonl or .ndjson.
[[nodiscard]] bool named_json_lines(const std::filesystem::path& file);

struct JsonLines {
  std::vector<Record> records;
  std::uintmax_t bytes = 0;  ///< that were read
  bool complete = true;      ///< whether it was all of the file
};

/// The records of a file; empty lines are left out. Lines that begin after `max_bytes` are not
/// read. Throws std::runtime_error for the first line that is wrong, with its number.
[[nodiscard]] JsonLines read_json_lines(const std::filesystem::path& file,
                                        std::uintmax_t max_bytes);

}  // namespace llama
