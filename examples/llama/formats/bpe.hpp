// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The `model` of a tokenizer.json: byte-pair encoding of words.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "llama/formats/tokenizer_file.hpp"

namespace llama {

/// A token, and the byte of the word that it begins with.
struct PlacedToken {
  TokenId id;
  std::size_t begin;
};

/// Merges neighbours in the order of the ranks, leftmost first. Not for use by two threads at a
/// time. Errors are std::runtime_error.
class Bpe {
 public:
  /// With `byte_level` the characters of the vocabulary stand for bytes, as GPT-2's do; else words
  /// begin as characters, and those that have no token as tokens of their bytes (byte_fallback) or
  /// as the unknown token. Throws for anything else that the file needs.
  Bpe(const TokenizerFile& file, bool byte_level);

  /// As the file writes them.
  [[nodiscard]] const StringMap<TokenId>& ids() const noexcept { return ids_; }
  /// What the token stands for in text: bytes for byte-level tokens and those of the fallback.
  [[nodiscard]] std::string text_of(const std::string& token) const;

  /// Time O(n log n). Throws for a character without a token.
  void encode(std::string_view word, std::vector<PlacedToken>& result);

 private:
  struct Merge {
    std::size_t rank;
    TokenId result;
  };
  struct Symbol {
    TokenId id;  // -1: merged into the one before
    std::size_t begin;
    std::size_t previous;
    std::size_t next;
  };
  struct Candidate {
    std::size_t rank;
    std::size_t at;
    TokenId result;
    bool operator>(const Candidate& other) const noexcept {
      return rank != other.rank ? rank > other.rank : at > other.at;
    }
  };

  void read_vocabulary(const TokenizerFile& file, const nlohmann::json& vocabulary);
  void read_merges(const TokenizerFile& file, const nlohmann::json& merges);
  void read_unknown(const TokenizerFile& file, const nlohmann::json& model);

  [[nodiscard]] const Merge* merge_at(std::size_t at) const;
  void append(TokenId id, std::size_t begin);
  void begin_with_bytes(std::string_view word);
  void begin_with_characters(std::string_view word);
  void merge(std::string_view word, std::vector<PlacedToken>& result);
  void encode_word(std::string_view word, std::size_t begin, std::vector<PlacedToken>& result);

  bool byte_level_;
  StringMap<TokenId> ids_;               // as written in the file
  StringMap<TokenId> words_;             // the same as bytes; only byte_level
  std::array<TokenId, 256> byte_ids_{};  // -1: none; of byte_level or of the fallback
  bool byte_fallback_ = false, fuse_unknown_ = false;
  std::optional<TokenId> unknown_;
  std::unordered_map<std::uint64_t, Merge> merges_;
  bool whole_words_ = false;
  std::string separator_;  // no merge joins another character to it on the left; empty: unknown
  StringMap<std::vector<PlacedToken>> cache_;
  std::vector<Symbol> symbols_;
};

}  // namespace llama
