// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Training on samples: made of JSON lines, a part of them held out, the rest put into rows and
// shuffled anew in each epoch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "llama/app/data.hpp"
#include "llama/app/training_data.hpp"
#include "llama/formats/chat_template.hpp"
#include "llama/formats/json_lines.hpp"

namespace llama {

enum class LossChoice { completion, all };  ///< which tokens have a label
enum class LongSamples { cut, skip };       ///< what becomes of those that fit no row

struct SampleOptions {
  std::ptrdiff_t vocabulary = 256;  ///< ids must be below it
  std::ptrdiff_t sequence = 256;    ///< tokens of a row
  LossChoice loss_on = LossChoice::completion;
  LongSamples long_samples = LongSamples::cut;
  bool pack = true;                  ///< several samples share a row, none of which sees another
  double validation_fraction = 0.1;  ///< of the samples; in [0, 1)
  std::uintmax_t max_bytes = std::uintmax_t{32} << 20;  ///< of JSON lines that are read
  std::optional<EndOfText> end_of_text = std::nullopt;  ///< none: a newline ends a sample
};

/// Token ids, and of each whether the model learns to write it.
struct Sample {
  std::vector<std::int32_t> ids;
  std::vector<std::uint8_t> learned;
};

/// None where the model has none. It is asked when the first record needs it: what is wrong with a
/// template must not stop those who do not.
using FindTemplate = std::function<std::optional<ChatTemplate>()>;

/// Makes samples of records. Errors are std::runtime_error.
class SampleMaker {
 public:
  /// Without a tokenizer (null) each byte is an id. It must outlive this.
  SampleMaker(const SampleOptions& options, const Tokenizer* tokenizer, FindTemplate find)
      : options_(options), tokenizer_(tokenizer), find_(std::move(find)) {}

  /// Of any length. `what` names it in messages ("line 3 of 'x.jsonl'").
  /// - text: all of it is learned, and the end of text behind it;
  /// - completion: the completion and the end of text behind it are learned;
  /// - instruction: with a chat template, the instruction, an empty line and the input are the
  ///   user's message and the output is the answer; else Alpaca's own prompt and its completion;
  /// - messages: see ChatTemplate::render. The template writes what is at the ends.
  /// Where the template writes nothing, the tokenizer's tokens of the beginning stand in front. The
  /// text is made into ids as a whole; a token belongs to the part that it begins in.
  [[nodiscard]] Sample make(const Record& record, const std::string& what);

  /// Null where none was asked for, or none is there.
  [[nodiscard]] const ChatTemplate* chat_template() const noexcept {
    return template_ && *template_ ? &**template_ : nullptr;
  }

 private:
  const ChatTemplate* needed_template();
  [[nodiscard]] Sample encode(std::span<const Part> parts, bool plain,
                              const std::string& what) const;

  SampleOptions options_;
  const Tokenizer* tokenizer_;
  FindTemplate find_;
  std::optional<std::optional<ChatTemplate>> template_;  // the outer none: not asked yet
};

class SampleData final : public TrainingData {
 public:
  /// A file of JSON lines, or all below a folder whose names end as theirs do, in the order of
  /// their relative paths. Throws std::runtime_error for the first line that is wrong, before
  /// anything is used.
  [[nodiscard]] static SampleData from_json_lines(const std::filesystem::path& path,
                                                  const SampleOptions& options,
                                                  const Tokenizer* tokenizer, FindTemplate find);
  SampleData(std::vector<Sample> samples, const SampleOptions& options);

  [[nodiscard]] std::unique_ptr<BatchSource> training(const BatchOptions& options) const override;
  [[nodiscard]] std::unique_ptr<EvaluationSource> validation(
      const BatchOptions& options) const override;
  [[nodiscard]] std::uint64_t steps(std::uint64_t epochs,
                                    const BatchOptions& options) const override;
  [[nodiscard]] std::string size_text() const override;
  [[nodiscard]] std::string identity() const override;

  /// What became of the lines, a sentence each.
  [[nodiscard]] const std::vector<std::string>& notes() const noexcept { return notes_; }
  /// Those that are trained on, in their order.
  [[nodiscard]] std::span<const Sample> train() const noexcept { return train_; }
  [[nodiscard]] std::span<const Sample> held_out() const noexcept { return held_out_; }

 private:
  std::vector<Sample> train_, held_out_;
  SampleOptions options_;
  std::vector<std::string> notes_;
};

}  // namespace llama
