// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The steps of encoding: added tokens, normalizer, added tokens again, cuts, merges.
#include "llama/formats/tokenizer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>
#include <unordered_map>
#include <utility>

#include "llama/formats/added_tokens.hpp"
#include "llama/formats/bpe.hpp"
#include "llama/formats/normalizer.hpp"
#include "llama/formats/pre_tokenizer.hpp"
#include "llama/formats/regex.hpp"
#include "llama/formats/tokenizer_file.hpp"

namespace llama {
namespace {

using json = nlohmann::json;
using File = TokenizerFile;
using Id = TokenId;

/// The special tokens in front of a text: of a TemplateProcessing, alone or in a Sequence.
std::vector<Id> beginning_of(const File& file, const json& processor, const std::string& key) {
  std::vector<Id> ids;
  const json& type = File::member(processor, "type");
  if (type == "Sequence") {
    const json& list = File::member(processor, "processors");
    for (std::size_t i = 0; list.is_array() && i < list.size(); ++i)
      for (const Id id : beginning_of(file, list[i], fmt::format("{}.processors[{}]", key, i)))
        ids.push_back(id);
  }
  if (type != "TemplateProcessing") return ids;
  const json& tokens = File::member(processor, "special_tokens");
  const json& single = File::member(processor, "single");
  for (std::size_t i = 0; single.is_array() && i < single.size(); ++i) {
    const json& special = File::member(single[i], "SpecialToken");
    if (special.is_null()) break;
    const std::string name = file.string(File::member(special, "id"), key + ".single.id");
    const json& own = File::member(File::member(tokens, name.c_str()), "ids");
    if (!own.is_array()) file.fail(key + ".special_tokens", fmt::format("one of '{}'", name), own);
    for (const json& id : own) ids.push_back(file.id(id, key + ".special_tokens.ids"));
  }
  return ids;
}

/// Collects ids, and answers how many begin before each cut.
class Collector {
 public:
  explicit Collector(std::span<const std::size_t> cuts) : cuts_(cuts) {}

  /// The cuts that lie before `end` and were not asked for yet, less `begin`: before that, 0.
  std::vector<std::size_t> take(std::size_t begin, std::size_t end) {
    std::vector<std::size_t> taken;
    for (; next_ < cuts_.size() && cuts_[next_] < end; ++next_)
      taken.push_back(cuts_[next_] > begin ? cuts_[next_] - begin : 0);
    return taken;
  }
  void pass(std::size_t cuts) {
    for (; cuts > 0; --cuts) result_.before.push_back(result_.ids.size());
  }
  /// Cuts that were answered.
  [[nodiscard]] std::size_t passed() const noexcept { return result_.before.size(); }
  void push(Id id) { result_.ids.push_back(id); }
  void push(const Piece& piece, std::span<const PlacedToken> tokens) {
    std::size_t cut = 0;
    for (const PlacedToken& token : tokens) {
      for (; cut < piece.cuts.size() && piece.cuts[cut] <= token.begin; ++cut) pass(1);
      push(token.id);
    }
    pass(piece.cuts.size() - cut);
  }
  CutIds finish() {
    pass(cuts_.size() - result_.before.size());
    return std::move(result_);
  }

 private:
  std::span<const std::size_t> cuts_;
  std::size_t next_ = 0;
  CutIds result_;
};

/// The cuts of `cuts` before `end`, less `begin`, which are taken out of it.
std::vector<std::size_t> take(std::vector<std::size_t>& cuts, std::size_t begin, std::size_t end) {
  std::vector<std::size_t> taken;
  const auto last = std::ranges::lower_bound(cuts, end);
  for (auto cut = cuts.begin(); cut != last; ++cut)
    taken.push_back(*cut > begin ? *cut - begin : 0);
  cuts.erase(cuts.begin(), last);
  return taken;
}

}  // namespace

struct Tokenizer::Model {
  explicit Model(const File& file)
      : normalizer(file),
        pre_tokenizer(file),
        bpe(file, pre_tokenizer.byte_level()),
        beginning(
            beginning_of(file, File::member(file.root(), "post_processor"), "post_processor")) {
    for (const auto& [token, id] : bpe.ids()) {
      vocabulary = std::max<std::ptrdiff_t>(vocabulary, id + 1);
      texts.emplace(id, bpe.text_of(token));
      names.emplace(id, token);
    }
    const json& tokens = File::member(file.root(), "added_tokens");
    if (!tokens.is_null() && !tokens.is_array()) file.fail("added_tokens", "a list", tokens);
    for (std::size_t i = 0; i < tokens.size(); ++i)
      add_token(file, tokens[i], fmt::format("added_tokens[{}]", i));
    for (const Id id : beginning)
      if (id >= vocabulary)
        file.fail("post_processor", fmt::format("of tokens (ids below {})", vocabulary),
                  fmt::format("of the id {}", id));
  }

  void add_token(const File& file, const json& token, const std::string& key) {
    AddedToken added_token;
    added_token.content = file.string(File::member(token, "content"), key + ".content");
    const std::string& content = added_token.content;
    if (content.empty()) file.fail(key + ".content", "some text", File::member(token, "content"));
    const Id id = added_token.id = file.id(File::member(token, "id"), key + ".id");
    added_token.single_word = file.boolean(token, key + ".", "single_word", false);
    added_token.lstrip = file.boolean(token, key + ".", "lstrip", false);
    added_token.rstrip = file.boolean(token, key + ".", "rstrip", false);
    // The library does not read the number but counts on.
    const auto in_model = bpe.ids().find(content);
    const Id counted = in_model != bpe.ids().end()
                           ? in_model->second
                           : std::max(static_cast<Id>(bpe.ids().size()), last_added + 1);
    if (id != counted)
      file.fail(key + ".id", fmt::format("{} behind what is before it", counted),
                File::member(token, "id"));
    last_added = std::max(last_added, id);
    if (const auto owner = names.emplace(id, content).first; owner->second != content)
      file.fail(key + ".id", "an id of its own",
                fmt::format("{}, that of '{}' too", id, owner->second));
    added.emplace(content, id);
    texts[id] = content;
    vocabulary = std::max<std::ptrdiff_t>(vocabulary, id + 1);
    // Behind the normalizer the text has what the normalizer makes of the token.
    const bool is_normalized = file.boolean(token, key + ".", "normalized", false);
    if (is_normalized) added_token.content = normalizer(content);
    if (!added_token.content.empty())
      (is_normalized ? after_normalizer : before_normalizer).add(std::move(added_token));
  }

  void encode(std::string_view text, Collector& collector) {
    std::vector<PlacedToken> tokens;
    const auto word = [&](const Piece& piece) {
      tokens.clear();
      bpe.encode(piece.text, tokens);
      collector.push(piece, tokens);
    };
    const auto normalize = [&](std::size_t begin, std::size_t end) {
      Piece whole{.text = text.substr(begin, end - begin),
                  .cuts = collector.take(begin, end),
                  .at_start = begin == 0};
      std::string changed;
      if (!normalizer.empty()) {
        for (std::size_t& cut : whole.cuts) cut = normalizer(whole.text.substr(0, cut)).size();
        whole.text = changed = normalizer(whole.text);
      }
      after_normalizer.split(
          whole.text,
          [&](std::size_t from, std::size_t to) {
            Piece piece{.text = whole.text.substr(from, to - from),
                        .cuts = take(whole.cuts, from, to),
                        .at_start = whole.at_start && from == 0};
            const std::size_t all = piece.cuts.size(), before = collector.passed();
            pre_tokenizer.split(piece, word);
            collector.pass(before + all - collector.passed());
          },
          [&](Id id, std::size_t at) {
            collector.pass(take(whole.cuts, at, at + 1).size());
            collector.push(id);
          });
      collector.pass(whole.cuts.size());
    };
    before_normalizer.split(text, normalize, [&](Id id, std::size_t at) {
      collector.pass(collector.take(at, at + 1).size());
      collector.push(id);
    });
  }

  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  Bpe bpe;
  std::vector<Id> beginning;
  AddedTokens before_normalizer;
  AddedTokens after_normalizer;
  std::unordered_map<std::string, Id> added;
  std::unordered_map<Id, std::string> names;  // as the file writes them
  std::unordered_map<Id, std::string> texts;  // what they stand for
  Id last_added = -1;
  std::ptrdiff_t vocabulary = 0;
};

Tokenizer::Tokenizer(const std::filesystem::path& file) {
  if (!Regex::available()) Regex("");  // throws, whatever the file is
  model_ = std::make_unique<Model>(File(file));
}

Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;

std::ptrdiff_t Tokenizer::vocabulary() const noexcept { return model_->vocabulary; }

const std::vector<std::int32_t>& Tokenizer::beginning() const noexcept { return model_->beginning; }

std::optional<std::int32_t> Tokenizer::id_of(const std::string& token) const {
  if (const auto found = model_->added.find(token); found != model_->added.end())
    return found->second;
  const auto found = model_->bpe.ids().find(token);
  return found == model_->bpe.ids().end() ? std::nullopt : std::optional<Id>(found->second);
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, const std::string& what) const {
  return encode(text, {}, what).ids;
}

CutIds Tokenizer::encode(std::string_view text, std::span<const std::size_t> cuts,
                         const std::string& what) const {
  check_utf8(text, what);
  Collector collector(cuts);
  model_->encode(text, collector);
  return collector.finish();
}

const std::string& Tokenizer::text_of(std::int32_t id) const {
  static const std::string nothing;
  const auto found = model_->texts.find(id);
  return found == model_->texts.end() ? nothing : found->second;
}

}  // namespace llama
