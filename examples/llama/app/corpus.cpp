// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Chooses the tokenizer and the end-of-document token.
#include "llama/app/corpus.hpp"

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "llama/formats/checkpoint.hpp"
#include "llama/formats/regex.hpp"
#include "llama/formats/strict_json.hpp"
#include "llama/formats/tokenizer.hpp"

namespace llama {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* get_pcre2 =
    "install PCRE2 (apt-get install libpcre2-dev on Debian and Ubuntu) and build again, or encode "
    "the text elsewhere and pass the ids with --tokens";

bool is_file(const fs::path& path) {
  std::error_code error;
  return fs::is_regular_file(path, error);
}

/// The tokenizer in the model's folder, else the one in the adapter's folder.
std::optional<fs::path> own_tokenizer(const Options& options) {
  for (const auto& folder : {options.model, options.adapter})
    if (folder)
      if (const fs::path file = find_companion(*folder, "tokenizer.json"); is_file(file))
        return file;
  return std::nullopt;
}

/// Path of a model's config, also after an interrupted save. The file need not exist: `folder` may
/// hold only a tokenizer.
fs::path config_of(const fs::path& folder) {
  std::error_code error;
  return fs::is_directory(folder, error) ? find_config(folder, model_format)
                                         : folder / model_format.config;
}

bool same_file(const fs::path& a, const fs::path& b) {
  std::error_code error;
  return fs::equivalent(a, b, error) || read_small_file(a) == read_small_file(b);
}

/// The value of `key` in the JSON object in `path`; null if absent.
json member_of(const fs::path& path, const char* key) {
  if (!is_file(path)) return nullptr;
  const json root = parse_strict_json(read_small_file(path), fmt::format("'{}'", path.string()));
  return root.value(key, json());
}

std::optional<EndOfText> end_of_text(const Options& options, const fs::path& file,
                                     const Tokenizer& tokenizer) {
  const auto found = [](std::int32_t id, const char* key, const fs::path& in) {
    return EndOfText{id, fmt::format("'{}' of '{}'", key, in.string())};
  };
  const fs::path beside = find_companion(file.parent_path(), "tokenizer_config.json");
  json token = member_of(beside, "eos_token");
  if (token.is_object()) token = json(token.value("content", json()));
  if (token.is_string())
    if (const auto id = tokenizer.id_of(token.get_ref<const std::string&>()))
      return found(*id, "eos_token", beside);
  std::vector<fs::path> configs{config_of(file.parent_path())};
  if (options.model) configs.push_back(config_of(*options.model));
  for (const fs::path& config : configs) {
    json id = member_of(config, "eos_token_id");
    if (id.is_array() && !id.empty())
      id = json(id.front());  // the first id ends a text, as in LLaMA 3
    if (id.is_number_unsigned() &&
        id.get<std::uint64_t>() < static_cast<std::uint64_t>(tokenizer.vocabulary()))
      return found(id.get<std::int32_t>(), "eos_token_id", config);
  }
  return std::nullopt;
}

/// Merging or converting a model needs neither text nor a tokenizer.
bool needs_no_text(const Options& options, const LlamaConfig& config,
                   const std::optional<fs::path>& own_tokenizer) {
  return options.steps == 0 && !options.data && !options.tokenizer && options.model &&
         (own_tokenizer || config.vocabulary != 256);
}

/// Throws if text cannot be encoded for the model.
void require_tokenizer(const Options& options, const LlamaConfig& config,
                       const std::optional<fs::path>& file) {
  if (!file && options.model && config.vocabulary != 256)
    throw std::runtime_error(fmt::format(
        "without a tokenizer text is read as bytes, which needs a vocabulary of 256, but that of "
        "'{}' has {} and its folder has no tokenizer.json; give the model's own with --tokenizer, "
        "or "
        "ids with --tokens{}",
        options.model->string(), config.vocabulary,
        Regex::available()
            ? ""
            : fmt::format("; this program has no PCRE2, which a tokenizer needs: {}", get_pcre2)));
  if (file && !options.tokenizer && !Regex::available())
    throw std::runtime_error(
        fmt::format("text for the model must be encoded by its own tokenizer, '{}', which needs "
                    "PCRE2, but this program was built without it; {}",
                    file->string(), get_pcre2));
}

void fit_vocabulary(const Options& options, LlamaConfig& config, const fs::path& file,
                    const Tokenizer& tokenizer) {
  if (options.vocabulary_of_tokenizer) config.vocabulary = tokenizer.vocabulary();
  if (config.vocabulary < tokenizer.vocabulary())
    throw std::runtime_error(fmt::format(
        "the model must have an id for each token, but its vocabulary is {} and '{}' has ids up "
        "to {}; use the model's own tokenizer{}",
        config.vocabulary, file.string(), tokenizer.vocabulary() - 1,
        options.model ? "" : " or leave --vocabulary out"));
}

}  // namespace

Corpus load_corpus(const Options& options, LlamaConfig& config) {
  const DataOptions limits = options.data_options(config.vocabulary);
  if (options.tokens)
    return {TokenData::from_tokens(*options.tokens, options.token_type, limits), std::nullopt, {}};

  std::vector<std::string> notes;
  const std::optional<fs::path> own = own_tokenizer(options),
                                file = options.tokenizer ? options.tokenizer : own;
  if (needs_no_text(options, config, own))
    return {TokenData(std::vector<std::int32_t>(
                          static_cast<std::size_t>(options.batch * (options.sequence + 1))),
                      0.0),
            std::nullopt,
            {"no validation: neither --data nor --tokens was given"}};
  require_tokenizer(options, config, file);
  std::optional<Tokenizer> tokenizer;
  if (file) {
    tokenizer.emplace(*file);
    fit_vocabulary(options, config, *file, *tokenizer);
    if (!options.tokenizer)
      notes.push_back(fmt::format("the tokenizer is '{}', as none was given", file->string()));
    else if (own && !same_file(*file, *own))
      notes.push_back(fmt::format("the tokenizer is '{}', as given, and differs from '{}'",
                                  file->string(), own->string()));
  }

  DataOptions data_options = options.data_options(config.vocabulary);
  if (tokenizer) data_options.end_of_text = end_of_text(options, *file, *tokenizer);
  TokenData data = TokenData::from_text(options.data ? *options.data : find_default_corpus(),
                                        data_options, tokenizer ? &*tokenizer : nullptr);
  notes.insert(notes.end(), data.notes().begin(), data.notes().end());
  return {std::move(data), file, std::move(notes)};
}

}  // namespace llama
