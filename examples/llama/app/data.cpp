// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Finds, reads and splits the data.
#include "llama/app/data.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "llama/app/files_below.hpp"
#include "llama/formats/crc32c.hpp"
#include "llama/formats/file_format.hpp"
#include "llama/formats/input_file.hpp"
#include "llama/formats/tokenizer.hpp"
#include "llama/model/random_streams.hpp"

namespace llama {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little,
              "token files are little-endian and are read without swapping");

std::string read_bytes(const InputFile& file, std::uintmax_t at_most) {
  std::string bytes(static_cast<std::size_t>(std::min<std::uintmax_t>(file.size(), at_most)), '\0');
  file.read(0, bytes.data(), bytes.size());
  return bytes;
}

/// `bytes` are the first bytes of `file`, in UTF-8. Removes an incomplete character at their end.
void drop_cut_character(const InputFile& file, std::string& bytes) {
  if (bytes.size() == file.size()) return;
  char after = 0;
  file.read(bytes.size(), &after, 1);
  const auto continues = [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) == 0x80; };
  for (; continues(after) && !bytes.empty(); bytes.pop_back()) after = bytes.back();
}

[[noreturn]] void fail_format(const fs::path& file, const FileFormat& format,
                              std::string_view way_out) {
  throw std::runtime_error(fmt::format("'{}' must be text to train on, but it is {}; {}{}",
                                       file.string(), format.name, format.advice, way_out));
}

/// The texts of a folder, one after the other.
class Documents {
 public:
  Documents(const fs::path& folder, std::uintmax_t max_bytes, bool utf8)
      : folder_(folder), names_(files_below(folder)), left_(max_bytes), utf8_(utf8) {}

  /// The next text that is not empty, and its name; none at the end.
  std::optional<std::pair<fs::path, std::string>> next() {
    while (position_ < names_.size() && left_ > 0) {
      const fs::path path = folder_ / fs::path(names_[position_++]);
      std::string bytes;
      std::optional<FileFormat> format;
      try {
        const InputFile file(path);
        format = format_of(read_bytes(file, format_probe));
        if (!format) bytes = read_bytes(file, left_);
        if (!format && utf8_) drop_cut_character(file, bytes);
      } catch (const std::runtime_error&) {
        // One unreadable file is skipped; it is an error only if no text is left.
        leave_out(path, "unreadable");
        continue;
      }
      if (format && format->may_hold_text)
        fail_format(path, *format, fmt::format(", or take the file out of '{}'", folder_.string()));
      if (format) leave_out(path, format->name);
      if (bytes.empty()) continue;
      left_ -= std::min<std::uintmax_t>(left_, bytes.size());
      return std::pair(path, std::move(bytes));
    }
    return std::nullopt;
  }

  /// A sentence; empty if every file was read.
  std::string left_out() const {
    if (left_out_ == 0) return {};
    return fmt::format("{} of the files in '{}' {} left out, among them '{}' ({})", left_out_,
                       folder_.string(), left_out_ == 1 ? "was" : "were", first_.string(), why_);
  }

 private:
  void leave_out(const fs::path& path, std::string_view why) {
    if (left_out_++ == 0) first_ = path, why_ = why;
  }

  fs::path folder_;
  std::vector<std::string> names_;
  std::size_t position_ = 0;
  std::uintmax_t left_;
  bool utf8_;
  std::size_t left_out_ = 0;
  fs::path first_;
  std::string why_;
};

std::string text_of(const fs::path& path, std::uintmax_t max_bytes, bool utf8) {
  const InputFile file(path);
  if (const auto format = format_of(read_bytes(file, format_probe))) fail_format(path, *format, "");
  std::string bytes = read_bytes(file, max_bytes);
  if (utf8) drop_cut_character(file, bytes);
  return bytes;
}

[[noreturn]] void fail_empty(const fs::path& path, const std::string& given) {
  throw std::runtime_error(fmt::format(
      "'{}' must contain text to train on, but {}; give another file or folder with --data",
      path.string(), given));
}

void check_id(const fs::path& path, std::int64_t id, std::size_t position,
              std::ptrdiff_t vocabulary) {
  if (id < 0 || id >= vocabulary) {
    throw std::runtime_error(
        fmt::format("'{}': token ids must be from 0 to {} (a vocabulary of {}), but the one at "
                    "position {} is {}; use the model's own tokenizer or a larger vocabulary",
                    path.string(), vocabulary - 1, vocabulary, position, id));
  }
}

/// Appends the ids of a text: those of `tokenizer`, or its bytes where that is null.
void append_ids(std::vector<std::int32_t>& tokens, std::string_view text, const fs::path& name,
                std::ptrdiff_t vocabulary, const Tokenizer* tokenizer) {
  const std::size_t begin = tokens.size();
  if (tokenizer != nullptr) {
    const auto ids = tokenizer->encode(text, fmt::format("'{}'", name.string()));
    tokens.insert(tokens.end(), ids.begin(), ids.end());
  } else {
    const auto* const bytes = reinterpret_cast<const unsigned char*>(text.data());
    tokens.insert(tokens.end(), bytes, bytes + text.size());
  }
  for (std::size_t i = begin; i < tokens.size(); ++i)
    check_id(name, tokens[i], i - begin, vocabulary);
}

template <typename Id>
std::vector<std::int32_t> read_ids(const InputFile& file, std::ptrdiff_t vocabulary) {
  if (file.size() % sizeof(Id) != 0) {
    throw std::runtime_error(
        fmt::format("'{}' must be a whole number of {}-byte ids, but it has {} bytes; check "
                    "--token-type and that the file is complete",
                    file.path().string(), sizeof(Id), file.size()));
  }
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(file.size() / sizeof(Id)));
  std::vector<Id> chunk;
  constexpr std::size_t chunk_size = 1 << 16;
  for (std::size_t begin = 0; begin < tokens.size(); begin += chunk.size()) {
    chunk.resize(std::min(chunk_size, tokens.size() - begin));
    file.read(begin * sizeof(Id), chunk.data(), chunk.size() * sizeof(Id));
    for (std::size_t i = 0; i < chunk.size(); ++i) {
      check_id(file.path(), chunk[i], begin + i, vocabulary);
      tokens[begin + i] = static_cast<std::int32_t>(chunk[i]);
    }
  }
  return tokens;
}

TokenType type_of(const fs::path& path, TokenType type) {
  if (type != TokenType::automatic) return type;
  if (path.extension() == ".u16") return TokenType::u16;
  if (path.extension() == ".i32") return TokenType::i32;
  throw std::runtime_error(
      fmt::format("'{}' must end in .u16 or .i32 for its type to be known, but it ends in '{}'; "
                  "say --token-type u16 or i32",
                  path.string(), path.extension().string()));
}

/// The number in "12" or "llvm-19" after `prefix`; none for other names.
std::optional<int> version_after(std::string_view name, std::string_view prefix) {
  if (!name.starts_with(prefix)) return std::nullopt;
  name.remove_prefix(prefix.size());
  int version = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), version);
  if (error != std::errc() || end == name.data()) return std::nullopt;
  return version;
}

/// The subfolder `prefix`N of `folder` with the largest N that contains `below`.
std::optional<fs::path> newest(const fs::path& folder, std::string_view prefix,
                               const fs::path& below) {
  std::optional<std::pair<int, fs::path>> best;
  std::error_code error;
  fs::directory_iterator walk(folder, error);
  for (; !error && walk != fs::directory_iterator(); walk.increment(error)) {
    const auto version = version_after(walk->path().filename().string(), prefix);
    std::error_code ignored;
    const fs::path candidate = walk->path() / below;
    if (version && fs::is_regular_file(candidate / "vector", ignored) &&
        (!best || *version > best->first))
      best.emplace(*version, candidate);
  }
  if (!best) return std::nullopt;
  return best->second;
}

std::size_t positive(std::ptrdiff_t value, const char* name) {
  if (value < 1)
    throw std::invalid_argument(
        fmt::format("{} must be at least 1, but it is {}; give a positive number", name, value));
  return static_cast<std::size_t>(value);
}

void copy_window(std::span<const std::int32_t> tokens, std::size_t start,
                 std::span<std::int32_t> input_ids, std::span<std::int32_t> labels) {
  std::ranges::copy(tokens.subspan(start, input_ids.size()), input_ids.begin());
  std::ranges::copy(tokens.subspan(start + 1, labels.size()), labels.begin());
}

void check_room(std::span<const std::int32_t> input_ids, std::span<const std::int32_t> labels,
                std::size_t batch, std::size_t sequence) {
  if (input_ids.size() != batch * sequence || labels.size() != batch * sequence) {
    throw std::invalid_argument(
        fmt::format("a batch needs room for {} x {} = {} ids and as many labels, but {} and {} "
                    "were given; pass spans of that size",
                    batch, sequence, batch * sequence, input_ids.size(), labels.size()));
  }
}

}  // namespace

TokenData::TokenData(std::vector<std::int32_t> tokens, double validation_fraction)
    : tokens_(std::move(tokens)) {
  if (!(validation_fraction >= 0.0 && validation_fraction < 1.0)) {
    throw std::invalid_argument(fmt::format(
        "the validation fraction must be in [0, 1), but it is {}; the usual value is 0.1",
        validation_fraction));
  }
  train_size_ = tokens_.size() - static_cast<std::size_t>(std::floor(
                                     static_cast<double>(tokens_.size()) * validation_fraction));
}

TokenData TokenData::from_text(const fs::path& path, const DataOptions& options,
                               const Tokenizer* tokenizer) {
  std::vector<std::int32_t> tokens;
  const auto append = [&](std::string_view text, const fs::path& name) {
    append_ids(tokens, text, name, options.vocabulary, tokenizer);
  };
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    const std::string text = text_of(path, options.max_bytes, tokenizer != nullptr);
    if (text.empty()) fail_empty(path, "it is empty");
    append(text, path);
    return {std::move(tokens), options.validation_fraction};
  }

  if (options.end_of_text) check_id(path, options.end_of_text->id, 0, options.vocabulary);
  Documents documents(path, options.max_bytes, tokenizer != nullptr);
  std::size_t count = 0;
  auto document = documents.next();
  while (document) {
    auto following = documents.next();
    auto& [name, text] = *document;
    if (following && !options.end_of_text && !text.ends_with('\n')) text += '\n';
    append(text, name);
    if (following && options.end_of_text) tokens.push_back(options.end_of_text->id);
    ++count;
    document = std::move(following);
  }
  const std::string left_out = documents.left_out();
  if (count == 0)
    fail_empty(path, left_out.empty()
                         ? "no readable text file is in it"
                         : fmt::format("no readable text file is in it: {}", left_out));
  TokenData data(std::move(tokens), options.validation_fraction);
  data.notes_.push_back(
      options.end_of_text
          ? fmt::format("the {} documents of '{}' are separated by the token {}, {}", count,
                        path.string(), options.end_of_text->id, options.end_of_text->source)
          : fmt::format("the {} documents of '{}' are separated by newlines", count,
                        path.string()));
  if (!left_out.empty()) data.notes_.push_back(left_out);
  return data;
}

TokenData TokenData::from_tokens(const fs::path& path, TokenType type, const DataOptions& options) {
  type = type_of(path, type);
  const InputFile file(path);
  if (file.size() == 0)
    throw std::runtime_error(
        fmt::format("'{}' must contain token ids, but it is empty; give another file with --tokens",
                    path.string()));
  if (const auto format = format_of_ids(read_bytes(file, format_probe)))
    throw std::runtime_error(
        fmt::format("'{}' must be raw token ids, but it is {}; write ids alone, as uint16 or int32",
                    path.string(), format->name));
  return {type == TokenType::u16 ? read_ids<std::uint16_t>(file, options.vocabulary)
                                 : read_ids<std::int32_t>(file, options.vocabulary),
          options.validation_fraction};
}

fs::path find_default_corpus(const fs::path& root) {
  if (const auto found = newest(root / "usr/include/c++", "", "")) return found->lexically_normal();
  std::error_code error;
  if (const fs::path plain = root / "usr/include/c++/v1";
      fs::is_regular_file(plain / "vector", error))
    return plain;
  if (const auto found = newest(root / "usr/lib", "llvm-", "include/c++/v1"))
    return found->lexically_normal();
  throw std::runtime_error(fmt::format(
      "the default text is the headers of the C++ standard library, but none are under '{}' or "
      "'{}'; pass --data with a file or folder of text",
      (root / "usr/include/c++").string(), (root / "usr/lib/llvm-*/include/c++").string()));
}

namespace {

/// Windows at random places.
class WindowBatches final : public BatchSource {
 public:
  WindowBatches(std::span<const std::int32_t> tokens, const BatchOptions& options)
      : sampler_(tokens, options.batch, options.sequence, options.seed), options_(options) {}

  void fill(std::uint64_t step, std::uint32_t micro_step, Batch& batch) const override {
    set_shape(batch, options_);
    batch.divisor = static_cast<double>(tokens(step));  // every token of a window has a label
    sampler_.fill(step, micro_step, batch.inputs, batch.labels);
  }
  std::uint64_t tokens(std::uint64_t /*step*/) const override {
    return static_cast<std::uint64_t>(options_.micro_steps * options_.batch * options_.sequence);
  }

  static void set_shape(Batch& batch, const BatchOptions& options) {
    batch.shape = {options.batch, options.sequence};
    batch.inputs.resize(static_cast<std::size_t>(batch.shape.tokens()));
    batch.labels.resize(batch.inputs.size());
  }

 private:
  BatchSampler sampler_;
  BatchOptions options_;
};

class WindowEvaluation final : public EvaluationSource {
 public:
  WindowEvaluation(std::span<const std::int32_t> tokens, const BatchOptions& options)
      : windows_(tokens, options.batch, options.sequence, options.eval_batches),
        options_(options) {}

  std::size_t batches() const noexcept override { return windows_.batches(); }
  void fill(std::size_t index, Batch& batch) const override {
    WindowBatches::set_shape(batch, options_);
    batch.divisor = static_cast<double>(batches() * batch.inputs.size());
    windows_.fill(index, batch.inputs, batch.labels);
  }

 private:
  EvaluationWindows windows_;
  BatchOptions options_;
};

}  // namespace

std::unique_ptr<BatchSource> TokenData::training(const BatchOptions& options) const {
  return std::make_unique<WindowBatches>(train(), options);
}

std::unique_ptr<EvaluationSource> TokenData::validation(const BatchOptions& options) const {
  if (validation().empty()) return nullptr;
  return std::make_unique<WindowEvaluation>(validation(), options);
}

std::uint64_t TokenData::steps(std::uint64_t epochs, const BatchOptions& options) const {
  const std::uint64_t a_step =
      static_cast<std::uint64_t>(options.micro_steps * options.batch * options.sequence);
  return (epochs * train().size() + a_step - 1) / a_step;
}

std::string TokenData::size_text() const {
  return fmt::format("{} training tokens", train().size());
}

std::string TokenData::identity() const {
  std::uint32_t sum = 0;
  for (const auto part : {train(), validation()}) sum = crc32c(sum, part.data(), part.size_bytes());
  return fmt::format("{} + {} tokens of CRC-32C {:08x}", train().size(), validation().size(), sum);
}

BatchSampler::BatchSampler(std::span<const std::int32_t> tokens, std::ptrdiff_t batch,
                           std::ptrdiff_t sequence, std::uint64_t seed)
    : tokens_(tokens),
      batch_(positive(batch, "batch")),
      sequence_(positive(sequence, "sequence")),
      seed_(seed) {
  // A division, because batch x (sequence + 1) may overflow.
  if (tokens_.size() / batch_ < sequence_ + 1) {
    throw std::runtime_error(fmt::format(
        "the training text must have at least batch x (sequence + 1) = {} x {} = {:.0f} tokens, "
        "but it has {}; give more text, a smaller --batch or a smaller --sequence",
        batch_, sequence_ + 1, static_cast<double>(batch_) * (static_cast<double>(sequence_) + 1),
        tokens_.size()));
  }
}

void BatchSampler::fill(std::uint64_t step, std::uint32_t micro_step,
                        std::span<std::int32_t> input_ids, std::span<std::int32_t> labels) const {
  check_room(input_ids, labels, batch_, sequence_);
  const std::uint64_t starts = tokens_.size() - sequence_;
  const dropbp::CounterRandom random(seed_, batch_stream, step, micro_step);
  for (std::size_t row = 0; row < batch_; ++row) {
    // The modulo bias is at most starts / 2^64.
    const std::uint64_t start = random(row) % starts;
    copy_window(tokens_, static_cast<std::size_t>(start),
                input_ids.subspan(row * sequence_, sequence_),
                labels.subspan(row * sequence_, sequence_));
  }
}

EvaluationWindows::EvaluationWindows(std::span<const std::int32_t> tokens, std::ptrdiff_t batch,
                                     std::ptrdiff_t sequence, std::ptrdiff_t batches)
    : tokens_(tokens),
      batch_(positive(batch, "batch")),
      sequence_(positive(sequence, "sequence")),
      batches_(positive(batches, "eval-batches")) {
  if (tokens_.size() <= sequence_) {
    throw std::runtime_error(
        fmt::format("the validation text must have at least sequence + 1 = {} tokens, but it has "
                    "{}; give more text, a smaller --sequence or a larger --validation-fraction",
                    sequence_ + 1, tokens_.size()));
  }
}

void EvaluationWindows::fill(std::size_t index, std::span<std::int32_t> input_ids,
                             std::span<std::int32_t> labels) const {
  check_room(input_ids, labels, batch_, sequence_);
  if (index >= batches_)
    throw std::invalid_argument(
        fmt::format("evaluation has {} batches, but number {} was asked for; stop at batches()",
                    batches_, index));
  const std::size_t last_start = tokens_.size() - sequence_ - 1;
  const std::size_t windows = batches_ * batch_;
  for (std::size_t row = 0; row < batch_; ++row) {
    const std::size_t window = index * batch_ + row;
    // Equal steps from the first to the last start. The product window x last_start could overflow,
    // so it is avoided.
    const std::size_t gaps = std::max<std::size_t>(windows - 1, 1);
    const std::size_t start = window * (last_start / gaps) + window * (last_start % gaps) / gaps;
    copy_window(tokens_, start, input_ids.subspan(row * sequence_, sequence_),
                labels.subspan(row * sequence_, sequence_));
  }
}

}  // namespace llama
