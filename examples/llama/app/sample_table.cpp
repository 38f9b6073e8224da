// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

#include "llama/app/sample_table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "llama/formats/tokenizer.hpp"

namespace llama {
namespace {

/// Printable characters as they are, the others and bytes of cut ones as escapes.
std::string escaped(std::string_view text) {
  std::string result = "\"";
  while (!text.empty()) {
    const std::size_t size = character_size(text);
    const auto byte = static_cast<unsigned char>(text.front());
    if (byte == '\n')
      result += "\\n";
    else if (byte == '\t')
      result += "\\t";
    else if (byte == '"' || byte == '\\')
      result += fmt::format("\\{}", text.front());
    else if (size == 0 || byte < 0x20 || byte == 0x7F)
      result += fmt::format("\\x{:02x}", byte);
    else
      result += text.substr(0, size);
    text.remove_prefix(std::max<std::size_t>(size, 1));
  }
  return result + '"';
}

}  // namespace

std::string sample_table(const Sample& sample, const Tokenizer* tokenizer) {
  std::string table = fmt::format("position      id  learned  token\n");
  for (std::size_t i = 0; i < sample.ids.size(); ++i) {
    const std::int32_t id = sample.ids[i];
    table +=
        fmt::format("{:8} {:7}  {:7}  {}\n", i, id, sample.learned[i] != 0 && i > 0 ? "yes" : "-",
                    escaped(tokenizer != nullptr ? tokenizer->text_of(id)
                                                 : std::string(1, static_cast<char>(id))));
  }
  return table;
}

}  // namespace llama
