// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Training data: text as bytes or files of token ids, split into a training and a validation part,
// and cut into batches.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "llama/app/training_data.hpp"

namespace llama {

class Tokenizer;

enum class TokenType { automatic, u16, i32 };  ///< automatic: from the extension .u16 or .i32

/// The token between two documents.
struct EndOfText {
  std::int32_t id = 0;
  std::string source;  ///< which file says so: "'eos_token' of 'm/tokenizer_config.json'"
};

struct DataOptions {
  std::ptrdiff_t vocabulary = 256;   ///< ids must be below it
  double validation_fraction = 0.1;  ///< of the tokens, from the end; in [0, 1)
  std::uintmax_t max_bytes = std::uintmax_t{32}
                             << 20;  ///< limit of the text that is read; ignored for token files
  std::optional<EndOfText> end_of_text = std::nullopt;  ///< the tokenizer's, if it has one
};

/// The tokens of a corpus. Errors are std::runtime_error.
class TokenData final : public TrainingData {
 public:
  /// A file, or all files under a folder in the order of their relative paths (compared byte by
  /// byte, so it is the same on every machine). Each byte is an id, or `tokenizer` encodes each
  /// file, which then must be UTF-8 (a character that max_bytes cuts is left out). Two files are
  /// separated by end_of_text or, without it, by a newline if the first does not end in one. A file
  /// in another format than text (format_of) is an error. In a folder, files that cannot hold text,
  /// hidden files, unreadable files and files that are not regular are left out.
  [[nodiscard]] static TokenData from_text(const std::filesystem::path& path,
                                           const DataOptions& options = {},
                                           const Tokenizer* tokenizer = nullptr);
  /// Raw little-endian ids, uint16 or int32. A known format of anything else is an error.
  [[nodiscard]] static TokenData from_tokens(const std::filesystem::path& path, TokenType type,
                                             const DataOptions& options);

  TokenData(std::vector<std::int32_t> tokens, double validation_fraction);

  [[nodiscard]] std::unique_ptr<BatchSource> training(const BatchOptions& options) const override;
  [[nodiscard]] std::unique_ptr<EvaluationSource> validation(
      const BatchOptions& options) const override;
  /// Batches are drawn from random places, so an epoch is as many tokens as there are.
  [[nodiscard]] std::uint64_t steps(std::uint64_t epochs,
                                    const BatchOptions& options) const override;
  [[nodiscard]] std::string size_text() const override;
  [[nodiscard]] std::string identity() const override;

  [[nodiscard]] std::span<const std::int32_t> train() const noexcept {
    return std::span(tokens_).first(train_size_);
  }
  [[nodiscard]] std::span<const std::int32_t> validation() const noexcept {
    return std::span(tokens_).subspan(train_size_);
  }
  /// For a folder: a sentence on how its documents are separated, and one on files that were left
  /// out.
  [[nodiscard]] const std::vector<std::string>& notes() const noexcept { return notes_; }

 private:
  std::vector<std::int32_t> tokens_;
  std::size_t train_size_ = 0;
  std::vector<std::string> notes_;
};

/// The headers of the newest C++ standard library under `root`. std::runtime_error if there is
/// none.
[[nodiscard]] std::filesystem::path find_default_corpus(const std::filesystem::path& root = "/");

/// Training batches as a pure function of (seed, step, micro_step): each row is `sequence + 1`
/// neighbouring tokens from a random place; labels are the inputs shifted by one.
class BatchSampler {
 public:
  /// `tokens` must outlive the sampler and hold at least batch x (sequence + 1)
  /// (std::runtime_error).
  BatchSampler(std::span<const std::int32_t> tokens, std::ptrdiff_t batch, std::ptrdiff_t sequence,
               std::uint64_t seed);

  /// Fills [batch, sequence] ids, row-major.
  void fill(std::uint64_t step, std::uint32_t micro_step, std::span<std::int32_t> input_ids,
            std::span<std::int32_t> labels) const;

 private:
  std::span<const std::int32_t> tokens_;
  std::size_t batch_;
  std::size_t sequence_;
  std::uint64_t seed_;
};

/// The same `batches` x `batch` evenly spaced windows every time, so that validation losses can be
/// compared.
class EvaluationWindows {
 public:
  /// `tokens` must outlive this and hold at least sequence + 1 (std::runtime_error); windows
  /// overlap when it is short.
  EvaluationWindows(std::span<const std::int32_t> tokens, std::ptrdiff_t batch,
                    std::ptrdiff_t sequence, std::ptrdiff_t batches);

  [[nodiscard]] std::size_t batches() const noexcept { return batches_; }
  /// Fills [batch, sequence] ids of batch `index` < batches().
  void fill(std::size_t index, std::span<std::int32_t> input_ids,
            std::span<std::int32_t> labels) const;

 private:
  std::span<const std::int32_t> tokens_;
  std::size_t batch_;
  std::size_t sequence_;
  std::size_t batches_;
};

}  // namespace llama
