// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Finding, reading and cutting the data.
#include "data.hpp"

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

#include "input_file.hpp"
#include "random_streams.hpp"
#include "tokenizer.hpp"

namespace llama {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little,
              "token files are little-endian and are read without swapping");

constexpr std::uintmax_t binary_probe =
    8192;  // bytes, as in git: a NUL among them marks a binary file

std::string read_bytes(const InputFile& file, std::uintmax_t at_most) {
  std::string bytes(static_cast<std::size_t>(std::min<std::uintmax_t>(file.size(), at_most)), '\0');
  file.read(0, bytes.data(), bytes.size());
  return bytes;
}

/// Takes from the end of UTF-8 read from the front of `file` the character that the cut went
/// through.
void drop_cut_character(const InputFile& file, std::string& bytes) {
  if (bytes.size() == file.size()) return;
  char after = 0;
  file.read(bytes.size(), &after, 1);
  const auto continues = [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) == 0x80; };
  for (; continues(after) && !bytes.empty(); bytes.pop_back()) after = bytes.back();
}

/// Relative paths with '/', sorted as bytes.
std::vector<std::string> files_below(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  fs::recursive_directory_iterator walk(folder, fs::directory_options::skip_permission_denied,
                                        error);
  for (; !error && walk != fs::recursive_directory_iterator(); walk.increment(error)) {
    std::error_code ignored;
    if (walk->path().filename().string().starts_with('.')) {
      if (walk->is_directory(ignored)) walk.disable_recursion_pending();
    } else if (walk->is_regular_file(ignored)) {
      names.push_back(walk->path().lexically_relative(folder).generic_string());
    }
  }
  if (error) {
    throw std::runtime_error(fmt::format(
        "'{}' must be a folder that can be listed, but {}; check the path and its permissions",
        folder.string(), error.message()));
  }
  std::ranges::sort(names);
  return names;
}

std::string text_below(const fs::path& folder, std::uintmax_t max_bytes, bool utf8) {
  std::string text;
  for (const std::string& name : files_below(folder)) {
    if (text.size() >= max_bytes) break;
    std::string bytes;
    try {
      const InputFile file(folder / fs::path(name));
      bytes = read_bytes(file, max_bytes - text.size());
      if (std::string_view(bytes).substr(0, binary_probe).find('\0') != std::string_view::npos)
        continue;
      if (utf8) drop_cut_character(file, bytes);
    } catch (const std::runtime_error&) {
      // One unreadable file among many is no reason to stop; an empty result below is.
      continue;
    }
    if (utf8) check_utf8(bytes, fmt::format("'{}'", (folder / fs::path(name)).string()));
    text += bytes;
  }
  return text;
}

std::string text_of(const fs::path& path, std::uintmax_t max_bytes, bool utf8) {
  const InputFile file(path);
  std::string bytes = read_bytes(file, max_bytes);
  if (utf8) drop_cut_character(file, bytes);
  return bytes;
}

[[noreturn]] void fail_empty(const fs::path& path, const char* given) {
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
  std::error_code error;
  const bool is_folder = fs::is_directory(path, error);
  const std::string text = is_folder ? text_below(path, options.max_bytes, tokenizer != nullptr)
                                     : text_of(path, options.max_bytes, tokenizer != nullptr);
  if (text.empty()) fail_empty(path, is_folder ? "no readable text file is in it" : "it is empty");
  std::vector<std::int32_t> tokens;
  if (tokenizer != nullptr)
    tokens = tokenizer->encode(text, fmt::format("'{}'", path.string()));
  else
    tokens.assign(reinterpret_cast<const unsigned char*>(text.data()),
                  reinterpret_cast<const unsigned char*>(text.data()) + text.size());
  for (std::size_t i = 0; i < tokens.size(); ++i) check_id(path, tokens[i], i, options.vocabulary);
  return {std::move(tokens), options.validation_fraction};
}

TokenData TokenData::from_tokens(const fs::path& path, TokenType type, const DataOptions& options) {
  type = type_of(path, type);
  const InputFile file(path);
  if (file.size() == 0)
    throw std::runtime_error(
        fmt::format("'{}' must contain token ids, but it is empty; give another file with --tokens",
                    path.string()));
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
    // The remainder favours no start by more than starts / 2^64.
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
    // From the first to the last start in equal steps, without the product window x last_start that
    // could overflow.
    const std::size_t gaps = std::max<std::size_t>(windows - 1, 1);
    const std::size_t start = window * (last_start / gaps) + window * (last_start % gaps) / gaps;
    copy_window(tokens_, start, input_ids.subspan(row * sequence_, sequence_),
                labels.subspan(row * sequence_, sequence_));
  }
}

}  // namespace llama
