// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Encodes text with a model's own tokenizer: byte-level BPE from a tokenizer.json.
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

/// Throws std::runtime_error, with the position of the first invalid byte, unless `text` is UTF-8.
/// `what` names the text ("'x/a.txt'").
void check_utf8(std::string_view text, const std::string& what);

/// A tokenizer.json of Hugging Face tokenizers, as LLaMA-3, GPT-2, SmolLM and Qwen have it.
/// encode() gives the ids of that library's encode(text, add_special_tokens=False): special tokens
/// in the text are found, but none is added at its ends, and `truncation`, `padding`,
/// `post_processor` and `decoder` are not read. Supported is
/// - `model`: BPE without dropout, prefixes, suffixes and byte_fallback;
/// - `pre_tokenizer`: ByteLevel, or a Sequence of Split (Regex, Isolated) and Digits with ByteLevel
///   at its end;
/// - `normalizer`: none, or NFC. With NFC, encode() refuses text that NFC may change: text with
///   characters that NFC replaces, with combining marks (other than variation selectors), or with
///   other characters that may join the one before.
/// Unicode classes are those of PCRE2. Not thread-safe. Errors are std::runtime_error.
class Tokenizer {
 public:
  /// Throws for an unsupported file, naming the key, and if the program was built without PCRE2.
  explicit Tokenizer(const std::filesystem::path& file);
  ~Tokenizer();
  Tokenizer(Tokenizer&& other) noexcept;
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;
  Tokenizer& operator=(Tokenizer&&) = delete;

  /// Token ids are below this.
  [[nodiscard]] std::ptrdiff_t vocabulary() const noexcept;
  /// The id of a token as written in the file ("<|endoftext|>"); empty if there is no such token.
  [[nodiscard]] std::optional<std::int32_t> id_of(const std::string& token) const;
  /// Encodes in time O(n log n). Throws for text that is not UTF-8 or has a byte without an id.
  [[nodiscard]] std::vector<std::int32_t> encode(std::string_view text,
                                                 const std::string& what = "the text") const;

 private:
  struct Model;
  std::unique_ptr<Model> model_;
};

}  // namespace llama
