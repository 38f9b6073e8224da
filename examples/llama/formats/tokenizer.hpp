// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Text to token ids, and back, with a model's own tokenizer.json: byte-pair encoding, of bytes or
// in SentencePiece's way.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "llama/formats/utf8.hpp"

namespace llama {

/// The ids of a text, and of each place that was asked for the number of ids that begin before it.
struct CutIds {
  std::vector<std::int32_t> ids;
  std::vector<std::size_t> before;
};

/// A tokenizer.json of Hugging Face tokenizers, as LLaMA, Mistral, Qwen, Gemma, Phi, SmolLM and
/// GPT-2 have it. encode() gives the ids of that library's encode(text, add_special_tokens=False):
/// special tokens that stand in the text are found, but none is added at its ends. Supported is
/// - `model`: BPE without dropout, prefixes and suffixes, of bytes or with byte_fallback;
/// - `pre_tokenizer`: see PreTokenizer;
/// - `normalizer`: see Normalizer.
/// `truncation`, `padding` and `decoder` are not read. Unicode classes are those of PCRE2, normal
/// forms those of utf8proc. Not for use by two threads at a time. Errors are std::runtime_error.
class Tokenizer {
 public:
  /// Throws for a file that needs anything else, with its key, and where the program was built
  /// without PCRE2.
  explicit Tokenizer(const std::filesystem::path& file);
  ~Tokenizer();
  Tokenizer(Tokenizer&& other) noexcept;
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;
  Tokenizer& operator=(Tokenizer&&) = delete;

  /// Ids are below it.
  [[nodiscard]] std::ptrdiff_t vocabulary() const noexcept;
  /// Of a whole token, as the file writes it ("<|endoftext|>"); none where it is not one.
  [[nodiscard]] std::optional<std::int32_t> id_of(const std::string& token) const;
  /// The ids that the library's encode() puts in front of a text (`post_processor`), as LLaMA's
  /// "<s>".
  [[nodiscard]] const std::vector<std::int32_t>& beginning() const noexcept;

  /// Time O(n log n) whatever the text is. Throws for text that is not UTF-8 or has a byte without
  /// an id.
  [[nodiscard]] std::vector<std::int32_t> encode(std::string_view text,
                                                 const std::string& what = "the text") const;
  /// The same with places in the text: `cuts` are bytes, ascending, at boundaries of characters.
  [[nodiscard]] CutIds encode(std::string_view text, std::span<const std::size_t> cuts,
                              const std::string& what) const;

  /// What the token adds to a text: bytes, which need not be whole characters. Empty for an id that
  /// is no token.
  [[nodiscard]] const std::string& text_of(std::int32_t id) const;

 private:
  struct Model;
  std::unique_ptr<Model> model_;
};

}  // namespace llama
