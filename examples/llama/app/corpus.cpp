// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Chooses the tokenizer and the end-of-document token.
#include "llama/app/corpus.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "llama/app/files_below.hpp"
#include "llama/app/sample_table.hpp"
#include "llama/formats/chat_template.hpp"
#include "llama/formats/file_format.hpp"
#include "llama/formats/input_file.hpp"
#include "llama/formats/json_lines.hpp"
#include "llama/formats/model_folder.hpp"
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

/// A file that is named so or whose first line shows it, or a folder with one that is named so.
bool holds_json_lines(const fs::path& path) {
  std::error_code error;
  if (fs::is_directory(path, error))
    return std::ranges::any_of(files_below(path),
                               [](const std::string& name) { return named_json_lines(name); });
  if (named_json_lines(path) || !is_file(path)) return named_json_lines(path);
  const InputFile file(path);
  std::string front(static_cast<std::size_t>(std::min<std::uint64_t>(file.size(), format_probe)),
                    '\0');
  file.read(0, front.data(), front.size());
  const auto format = format_of(front);
  return format && format->name == json_lines_name;
}

/// Throws for an option that is about samples alone.
void require_no_sample_options(const Options& options) {
  const std::pair<bool, const char*> given[] = {
      {options.loss_on.has_value(), "--loss-on"},
      {options.long_samples.has_value(), "--long-samples"},
      {options.chat_template.has_value(), "--chat-template"},
      {options.no_packing, "--no-packing"}};
  for (const auto& [is_given, flag] : given)
    if (is_given)
      throw std::runtime_error(
          fmt::format("{} is about samples, but '{}' is running text; give JSON lines (.jsonl) "
                      "with --data, or leave {} out",
                      flag, options.data ? options.data->string() : "the default text", flag));
}

/// Where the chat template is: beside the tokenizer.
std::optional<ChatTemplate> chat_template_of(const Options& options,
                                             const std::optional<fs::path>& tokenizer) {
  fs::path folder;
  if (tokenizer)
    folder = tokenizer->has_parent_path() ? tokenizer->parent_path() : fs::path(".");
  else if (options.model)
    folder = *options.model;
  if (options.chat_template) return ChatTemplate::named(*options.chat_template, folder);
  return ChatTemplate::of_folder(folder);
}

void load_samples(const Options& options, const LlamaConfig& config, const Tokenizer* tokenizer,
                  std::optional<EndOfText> end, Corpus& corpus) {
  SampleOptions sample_options = options.sample_options(config.vocabulary);
  sample_options.end_of_text = std::move(end);
  auto data = std::make_unique<SampleData>(
      SampleData::from_json_lines(*options.data, sample_options, tokenizer,
                                  [&] { return chat_template_of(options, corpus.tokenizer); }));
  corpus.notes.insert(corpus.notes.end(), data->notes().begin(), data->notes().end());
  if (options.device != DeviceChoice::cpu && !options.no_packing)
    corpus.notes.emplace_back("each sample has a row of its own: a card cannot pack them yet");
  if (options.show_sample) corpus.first_sample = sample_table(data->train().front(), tokenizer);
  corpus.data = std::move(data);
}

void load_text(const Options& options, const LlamaConfig& config, const Tokenizer* tokenizer,
               std::optional<EndOfText> end, Corpus& corpus) {
  require_no_sample_options(options);
  DataOptions data_options = options.data_options(config.vocabulary);
  data_options.end_of_text = std::move(end);
  auto data = std::make_unique<TokenData>(TokenData::from_text(
      options.data ? *options.data : find_default_corpus(), data_options, tokenizer));
  corpus.notes.insert(corpus.notes.end(), data->notes().begin(), data->notes().end());
  if (options.show_sample) {
    const auto all = data->train();
    const auto first =
        all.first(std::min(all.size(), static_cast<std::size_t>(options.sequence) + 1));
    corpus.first_sample = sample_table(
        {{first.begin(), first.end()}, std::vector<std::uint8_t>(first.size(), 1)}, tokenizer);
  }
  corpus.data = std::move(data);
}

}  // namespace

Corpus load_corpus(const Options& options, LlamaConfig& config) {
  const auto text_of = [](TokenData data) { return std::make_unique<TokenData>(std::move(data)); };
  const DataOptions limits = options.data_options(config.vocabulary);
  if (options.tokens)
    return {text_of(TokenData::from_tokens(*options.tokens, options.token_type, limits)),
            std::nullopt,
            {},
            {}};

  Corpus corpus;
  const std::optional<fs::path> own = own_tokenizer(options);
  corpus.tokenizer = options.tokenizer ? options.tokenizer : own;
  if (needs_no_text(options, config, own))
    return {text_of(TokenData(std::vector<std::int32_t>(
                                  static_cast<std::size_t>(options.batch * (options.sequence + 1))),
                              0.0)),
            std::nullopt,
            {"no validation: neither --data nor --tokens was given"},
            {}};
  require_tokenizer(options, config, corpus.tokenizer);
  std::optional<Tokenizer> tokenizer;
  std::optional<EndOfText> end;
  if (corpus.tokenizer) {
    const fs::path& file = *corpus.tokenizer;
    tokenizer.emplace(file);
    fit_vocabulary(options, config, file, *tokenizer);
    if (!options.tokenizer)
      corpus.notes.push_back(
          fmt::format("the tokenizer is '{}', as none was given", file.string()));
    else if (own && !same_file(file, *own))
      corpus.notes.push_back(fmt::format("the tokenizer is '{}', as given, and differs from '{}'",
                                         file.string(), own->string()));
    end = end_of_text(options, file, *tokenizer);
  }
  const Tokenizer* const maker = tokenizer ? &*tokenizer : nullptr;
  if (options.data && holds_json_lines(*options.data))
    load_samples(options, config, maker, end, corpus);
  else
    load_text(options, config, maker, end, corpus);
  return corpus;
}

}  // namespace llama
