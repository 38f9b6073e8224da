// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

#include "llama/formats/bpe.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <queue>
#include <stdexcept>

#include "llama/formats/utf8.hpp"

namespace llama {
namespace {

using json = nlohmann::json;
using File = TokenizerFile;
using Id = TokenId;

constexpr std::size_t none = std::numeric_limits<std::size_t>::max();
constexpr std::string_view metaspace = "\xE2\x96\x81";  // SentencePiece's sign for a space

/// The byte that a character of a byte-level vocabulary stands for: printable Latin-1 stands for
/// itself, the other 68 bytes are counted up from U+0100.
const std::unordered_map<unsigned, unsigned char>& byte_of_character() {
  static const auto map = [] {
    std::unordered_map<unsigned, unsigned char> result;
    unsigned next = 0x100;
    for (unsigned b = 0; b < 256; ++b) {
      const bool itself = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      result.emplace(itself ? b : next++, static_cast<unsigned char>(b));
    }
    return result;
  }();
  return map;
}

/// None for what byte-level text never contains, such as a space.
std::optional<std::string> bytes_of_token(std::string_view token) {
  std::string bytes;
  while (!token.empty()) {
    const auto found = byte_of_character().find(code_of(token));
    if (found == byte_of_character().end()) return std::nullopt;
    bytes += static_cast<char>(found->second);
    token.remove_prefix(character_size(token));
  }
  return bytes;
}

std::string byte_token(unsigned byte) { return fmt::format("<0x{:02X}>", byte); }

std::uint64_t pair_key(Id left, Id right) noexcept {
  return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
}

/// "a b", or ["a", "b"].
std::pair<std::string, std::string> parts_of(const File& file, const json& merge,
                                             const std::string& key) {
  if (merge.is_array() && merge.size() == 2)
    return {file.string(merge[0], key), file.string(merge[1], key)};
  const std::string& text = file.string(merge, key);
  const std::size_t space = text.find(' ');
  if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos)
    file.fail(key, "two tokens", merge);
  return {text.substr(0, space), text.substr(space + 1)};
}

/// Whether `separator` stands in it behind another character.
bool has_inside(std::string_view token, std::string_view separator) {
  while (token.starts_with(separator)) token.remove_prefix(separator.size());
  return token.find(separator) != std::string_view::npos;
}

/// The next place at or after `from` where a separator follows another character.
std::size_t next_word(std::string_view text, std::size_t from, std::string_view separator) {
  for (std::size_t at = text.find(separator, from); at != std::string_view::npos;
       at = text.find(separator, at + separator.size()))
    if (at > 0 && !text.substr(0, at).ends_with(separator)) return at;
  return text.size();
}

}  // namespace

Bpe::Bpe(const File& file, bool byte_level) : byte_level_(byte_level) {
  const json& model = File::member(file.root(), "model");
  if (const json& type = File::member(model, "type"); !type.is_null() && type != "BPE")
    file.fail("model.type", "BPE", type);
  if (const json& dropout = File::member(model, "dropout"); !dropout.is_null() && dropout != 0.0)
    file.fail("model.dropout", "null", dropout);
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (const json& value = File::member(model, affix); !value.is_null() && value != "")
      file.fail(fmt::format("model.{}", affix), "empty", value);
  whole_words_ = file.boolean(model, "model.", "ignore_merges", false);
  read_vocabulary(file, File::member(model, "vocab"));
  read_unknown(file, model);
  read_merges(file, File::member(model, "merges"));
}

void Bpe::read_vocabulary(const File& file, const json& vocabulary) {
  if (!vocabulary.is_object() || vocabulary.empty())
    file.fail("model.vocab", "an object of tokens", vocabulary);
  std::unordered_map<Id, std::string_view> owners;
  for (const auto& [token, id] : vocabulary.items()) {
    const Id value = file.id(id, "model.vocab." + token);
    if (const auto [owner, fresh] = owners.emplace(value, token); !fresh)
      file.fail("model.vocab." + token, "an id of its own",
                fmt::format("{}, that of '{}' too", value, owner->second));
    ids_.emplace(token, value);
    if (!byte_level_) continue;
    if (auto bytes = bytes_of_token(token)) words_.emplace(std::move(*bytes), value);
  }
  const auto& map = byte_level_ ? words_ : ids_;
  for (unsigned b = 0; b < 256; ++b) {
    const auto found = map.find(byte_level_ ? std::string(1, static_cast<char>(b)) : byte_token(b));
    byte_ids_[b] = found == map.end() ? -1 : found->second;
  }
}

void Bpe::read_unknown(const File& file, const json& model) {
  byte_fallback_ = file.boolean(model, "model.", "byte_fallback", false);
  fuse_unknown_ = file.boolean(model, "model.", "fuse_unk", false);
  const json& unknown = File::member(model, "unk_token");
  if (byte_level_) {
    // Every byte has a token, or the text is an error: neither is ever used.
    if (byte_fallback_) file.fail("model.byte_fallback", "false with ByteLevel", true);
    return;
  }
  if (unknown.is_null()) return;
  const auto found = ids_.find(file.string(unknown, "model.unk_token"));
  if (found == ids_.end()) file.fail("model.unk_token", "a token in model.vocab", unknown);
  unknown_ = found->second;
}

void Bpe::read_merges(const File& file, const json& merges) {
  if (!merges.is_array()) file.fail("model.merges", "a list", merges);
  bool separates = !byte_level_ && !whole_words_ && ids_.contains(metaspace);
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const std::string key = fmt::format("model.merges[{}]", rank);
    const auto [left, right] = parts_of(file, merges[rank], key);
    const auto known = [&](const std::string& token) {
      const auto found = ids_.find(token);
      if (found == ids_.end())
        file.fail(key, "of tokens in model.vocab", fmt::format("of '{}'", token));
      return found->second;
    };
    const std::string result = left + right;
    merges_.insert_or_assign(pair_key(known(left), known(right)), Merge{rank, known(result)});
    separates = separates && !has_inside(result, metaspace);
  }
  if (separates) separator_ = metaspace;
}

std::string Bpe::text_of(const std::string& token) const {
  if (byte_level_) return bytes_of_token(token).value_or(token);
  for (unsigned b = 0; byte_fallback_ && token.size() == 6 && b < 256; ++b)
    if (token == byte_token(b)) return std::string(1, static_cast<char>(b));
  std::string text;
  for (std::size_t at = 0; at < token.size();) {
    const bool space = std::string_view(token).substr(at).starts_with(metaspace);
    text += space ? ' ' : token[at];
    at += space ? metaspace.size() : 1;
  }
  return text;
}

// Where no merge crosses the boundary of two words, each may be encoded alone: a document without
// a pre-tokenizer is one word otherwise, which no cache knows.
void Bpe::encode(std::string_view word, std::vector<PlacedToken>& result) {
  if (separator_.empty()) return encode_word(word, 0, result);
  for (std::size_t begin = 0; begin < word.size();) {
    const std::size_t end = next_word(word, begin + 1, separator_);
    encode_word(word.substr(begin, end - begin), begin, result);
    begin = end;
  }
}

void Bpe::encode_word(std::string_view word, std::size_t begin, std::vector<PlacedToken>& result) {
  constexpr std::size_t longest_kept = 64, most_kept = 1 << 18;  // bytes and words: some 70 MB
  const std::size_t first = result.size();
  if (word.size() > longest_kept) {
    merge(word, result);
  } else {
    auto known = cache_.find(word);
    if (known == cache_.end()) {
      if (cache_.size() == most_kept) cache_.clear();
      std::vector<PlacedToken> tokens;
      merge(word, tokens);
      known = cache_.emplace(word, std::move(tokens)).first;
    }
    result.insert(result.end(), known->second.begin(), known->second.end());
  }
  for (std::size_t i = first; begin > 0 && i < result.size(); ++i) result[i].begin += begin;
}

const Bpe::Merge* Bpe::merge_at(std::size_t at) const {
  if (symbols_[at].id < 0 || symbols_[at].next == none) return nullptr;
  const auto found = merges_.find(pair_key(symbols_[at].id, symbols_[symbols_[at].next].id));
  return found == merges_.end() ? nullptr : &found->second;
}

void Bpe::append(Id id, std::size_t begin) {
  const std::size_t at = symbols_.size();
  if (at > 0) symbols_.back().next = at;
  symbols_.push_back({id, begin, at == 0 ? none : at - 1, none});
}

void Bpe::begin_with_bytes(std::string_view word) {
  for (std::size_t i = 0; i < word.size(); ++i) {
    const auto byte = static_cast<unsigned char>(word[i]);
    if (byte_ids_[byte] < 0)
      throw std::runtime_error(
          fmt::format("the tokenizer must have a token for each byte of the text, but it has none "
                      "for 0x{:02X}; encode the text elsewhere and pass the ids with --tokens",
                      byte));
    append(byte_ids_[byte], i);
  }
}

void Bpe::begin_with_characters(std::string_view word) {
  std::size_t unknown_from = none;  // the first of the unknown characters just before
  const auto flush = [&] {
    if (unknown_from != none) append(*unknown_, unknown_from);
    unknown_from = none;
  };
  for (std::size_t at = 0; at < word.size();) {
    const std::string_view character = word.substr(at, character_size(word.substr(at)));
    const auto has_token = [&](char c) { return byte_ids_[static_cast<unsigned char>(c)] >= 0; };
    if (const auto found = ids_.find(character); found != ids_.end()) {
      flush();
      append(found->second, at);
    } else if (byte_fallback_ && std::ranges::all_of(character, has_token)) {
      // The library keeps what is unknown for behind these.
      for (std::size_t i = 0; i < character.size(); ++i)
        append(byte_ids_[static_cast<unsigned char>(character[i])], at + i);
    } else if (unknown_) {
      if (!fuse_unknown_) flush();
      if (unknown_from == none) unknown_from = at;
    } else {
      throw std::runtime_error(fmt::format(
          "the tokenizer must have a token for each character of the text, but it has none for "
          "U+{:04X}, nor for its bytes; encode the text elsewhere and pass the ids with --tokens",
          code_of(character)));
    }
    at += character.size();
  }
  flush();
}

// One loop over a linked list and a queue; parts of it would share all of this state.
void Bpe::merge(std::string_view word, std::vector<PlacedToken>& result) {
  if (whole_words_) {
    const auto& words = byte_level_ ? words_ : ids_;
    if (const auto found = words.find(word); found != words.end())
      return result.push_back({found->second, 0});
  }
  symbols_.clear();
  if (byte_level_)
    begin_with_bytes(word);
  else
    begin_with_characters(word);
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto propose = [&](std::size_t at) {
    if (at == none) return;
    if (const Merge* merge = merge_at(at)) queue.push({merge->rank, at, merge->result});
  };
  for (std::size_t i = 0; i < symbols_.size(); ++i) propose(i);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    // Proposed before one of the two was merged elsewhere.
    const Merge* still = merge_at(best.at);
    if (still == nullptr || still->result != best.result) continue;
    Symbol& left = symbols_[best.at];
    Symbol& right = symbols_[left.next];
    left.id = best.result;
    left.next = right.next;
    right.id = -1;
    if (left.next != none) symbols_[left.next].previous = best.at;
    propose(left.previous);
    propose(best.at);
  }
  for (const Symbol& symbol : symbols_)
    if (symbol.id >= 0) result.push_back({symbol.id, symbol.begin});
}

}  // namespace llama
