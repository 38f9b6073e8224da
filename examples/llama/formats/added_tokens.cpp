// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

#include "llama/formats/added_tokens.hpp"

#include <algorithm>
#include <utility>

#include "llama/formats/utf8.hpp"

namespace llama {
namespace {

constexpr bool continues(char c) { return (static_cast<unsigned char>(c) & 0xC0U) == 0x80; }

/// The last character of `text`.
std::string_view last_character(std::string_view text) {
  std::size_t begin = text.size() - 1;
  while (begin > 0 && continues(text[begin])) --begin;
  return text.substr(begin);
}

bool is_space(std::string_view character) {
  static const Regex space(R"(\s)");
  return space.find(character, 0).has_value();
}

/// Rust's \w: alphabetic characters, marks, decimal digits, connectors and joiners.
bool is_word(std::string_view character) {
  static const Regex word(
      R"([\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{200C}\x{200D}\x{24B6}-\x{24E9}\x{1F130}-\x{1F149})"
      R"(\x{1F150}-\x{1F169}\x{1F170}-\x{1F189}])");
  return word.find(character, 0).has_value();
}

bool stands_alone(std::string_view text, std::size_t begin, std::size_t end) {
  if (begin > 0 && is_word(last_character(text.substr(0, begin)))) return false;
  return end == text.size() || !is_word(text.substr(end, character_size(text.substr(end))));
}

}  // namespace

void AddedTokens::add(AddedToken token) {
  auto& list = by_first_byte_[static_cast<unsigned char>(token.content.front())];
  list.push_back(std::move(token));
  std::ranges::sort(list, std::greater<>(),
                    [](const AddedToken& one) { return one.content.size(); });
}

const AddedToken* AddedTokens::at(std::string_view rest) const {
  const auto& list = by_first_byte_[static_cast<unsigned char>(rest.front())];
  const auto found = std::ranges::find_if(
      list, [&](const AddedToken& one) { return rest.starts_with(one.content); });
  return found == list.end() ? nullptr : &*found;
}

void AddedTokens::split(std::string_view text,
                        const std::function<void(std::size_t, std::size_t)>& between,
                        const std::function<void(TokenId, std::size_t)>& token) const {
  std::size_t done = 0;
  for (std::size_t at_byte = 0; at_byte < text.size();) {
    const AddedToken* const found = at(text.substr(at_byte));
    if (found == nullptr) {
      ++at_byte;
      continue;
    }
    std::size_t begin = at_byte, end = at_byte + found->content.size();
    at_byte = end;  // also of one that is discarded: the library's search goes on behind it
    if (found->single_word && !stands_alone(text, begin, end)) continue;
    if (found->lstrip)
      while (begin > done && is_space(last_character(text.substr(0, begin))))
        begin -= last_character(text.substr(0, begin)).size();
    if (found->rstrip)
      while (end < text.size() && is_space(text.substr(end, character_size(text.substr(end)))))
        end += character_size(text.substr(end));
    if (done < begin) between(done, begin);
    token(found->id, begin);
    done = end;
  }
  if (done < text.size()) between(done, text.size());
}

}  // namespace llama
