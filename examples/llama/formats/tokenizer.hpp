// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Text to token ids with a model's own tokenizer: byte-level BPE from a tokenizer.json.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace llama {

/// Throws std::runtime_error with the position of the first byte that is not UTF-8; `what` names
/// the text ("'x/a.txt'").
void check_utf8(std::string_view text, const std::string& what);

/// A tokenizer.json of Hugging Face tokenizers, as LLaMA-3, GPT-2, SmolLM and Qwen have it.
/// encode() gives the ids of that library's encode(text, add_special_tokens=False): special tokens
/// that stand in the text are found, but none is added at its ends, and `truncation`, `padding`,
/// `post_processor` and `decoder` are not read. Supported is
/// - `model`: BPE without dropout, prefixes, suffixes and byte_fallback;
/// - `pre_tokenizer`: ByteLevel, or a Sequence of Split (Regex, Isolated) and Digits with ByteLevel
///   at its end;
/// - `normalizer`: none, or NFC, with which encode() refuses text that NFC may change: it looks for
///   characters that never are in it, and for combining marks (other than variation selectors) and
///   what else joins the character before it.
/// Unicode classes are those of PCRE2. Not for use by two threads at a time. Errors are
/// std::runtime_error.
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
  /// Time O(n log n) whatever the text is. Throws for text that is not UTF-8 or has a byte without
  /// an id.
  [[nodiscard]] std::vector<std::int32_t> encode(std::string_view text,
                                                 const std::string& what = "the text") const;

 private:
  struct Model;
  std::unique_ptr<Model> model_;
};

}  // namespace llama
