// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Any text with eight tokenizers. The golden texts have the ids of the published library; other
// texts have, in SentencePiece's way, the ids of a plain merge loop, and with bytes, tokens that
// make up the text again. The first byte chooses the tokenizer.
#include "llama/formats/tokenizer.hpp"

#include <algorithm>
#include <array>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "fuzz.hpp"
#include "llama/formats/utf8.hpp"

namespace {

using nlohmann::json;
using Ids = std::vector<std::int32_t>;

const std::string folder = DROPBP_TEST_DATA "/tokenizer/";

json stored(const std::string& name) {
  std::ifstream file(folder + name + ".json");
  return json::parse(file);
}

/// As RFC 3629 has it, by its table of well-formed byte sequences.
std::size_t plain_character(std::string_view text) {
  const auto byte = [&](std::size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u;
  };
  const auto in = [&](std::size_t i, unsigned low, unsigned high) {
    return byte(i) >= low && byte(i) <= high;
  };
  if (byte(0) < 0x80) return 1;
  if (in(0, 0xC2, 0xDF) && in(1, 0x80, 0xBF)) return 2;
  if (((byte(0) == 0xE0 && in(1, 0xA0, 0xBF)) || (in(0, 0xE1, 0xEC) && in(1, 0x80, 0xBF)) ||
       (byte(0) == 0xED && in(1, 0x80, 0x9F)) || (in(0, 0xEE, 0xEF) && in(1, 0x80, 0xBF))) &&
      in(2, 0x80, 0xBF))
    return 3;
  if (((byte(0) == 0xF0 && in(1, 0x90, 0xBF)) || (in(0, 0xF1, 0xF3) && in(1, 0x80, 0xBF)) ||
       (byte(0) == 0xF4 && in(1, 0x80, 0x8F))) &&
      in(2, 0x80, 0xBF) && in(3, 0x80, 0xBF))
    return 4;
  return 0;
}

std::vector<std::string> plain_characters(std::string_view text) {
  std::vector<std::string> characters;
  while (!text.empty()) {
    const std::size_t size = plain_character(text);
    if (size == 0) return {};
    characters.emplace_back(text.substr(0, size));
    text.remove_prefix(size);
  }
  return characters;
}

std::string with_metaspaces(std::string_view text) {
  std::string result;
  for (const char c : text) {
    if (c == ' ')
      result += "\xE2\x96\x81";
    else
      result += c;
  }
  return result;
}

/// Characters, then the pair that comes first among the merges, leftmost first, until there is
/// none.
class PlainBpe {
 public:
  explicit PlainBpe(const json& file)
      : ids_(file["model"]["vocab"].get<std::map<std::string, std::int32_t>>()) {
    for (const json& merge : file["model"]["merges"]) {
      std::array<std::string, 2> pair;
      if (merge.is_array()) {
        pair = {merge[0].get<std::string>(), merge[1].get<std::string>()};
      } else {
        const auto text = merge.get<std::string>();
        pair = {text.substr(0, text.find(' ')), text.substr(text.find(' ') + 1)};
      }
      ranks_.emplace(pair, ranks_.size());
    }
  }

  [[nodiscard]] Ids encode(std::string_view text) const {
    std::vector<std::string> tokens;
    for (const std::string& character : plain_characters(text)) {
      if (ids_.contains(character)) {
        tokens.push_back(character);
        continue;
      }
      for (const char c : character) {
        char name[8];
        std::snprintf(name, sizeof name, "<0x%02X>", static_cast<unsigned char>(c));
        tokens.emplace_back(name);
      }
    }
    merge(tokens);
    Ids result;
    for (const std::string& token : tokens) result.push_back(ids_.at(token));
    return result;
  }

 private:
  [[nodiscard]] std::size_t rank_at(const std::vector<std::string>& tokens, std::size_t i) const {
    if (i + 1 >= tokens.size()) return ranks_.size();
    const auto found = ranks_.find({tokens[i], tokens[i + 1]});
    return found == ranks_.end() ? ranks_.size() : found->second;
  }
  /// `ranks[i]` is that of tokens i and i + 1.
  void merge(std::vector<std::string>& tokens) const {
    std::vector<std::size_t> ranks;
    for (std::size_t i = 0; i < tokens.size(); ++i) ranks.push_back(rank_at(tokens, i));
    for (;;) {
      const auto best = std::ranges::min_element(ranks);
      if (best == ranks.end() || *best == ranks_.size()) return;
      const auto at = static_cast<std::size_t>(best - ranks.begin());
      tokens[at] += tokens[at + 1];
      tokens.erase(tokens.begin() + static_cast<std::ptrdiff_t>(at) + 1);
      ranks.erase(best);
      ranks[at] = rank_at(tokens, at);
      if (at > 0) ranks[at - 1] = rank_at(tokens, at - 1);
    }
  }

  std::map<std::string, std::int32_t> ids_;
  std::map<std::array<std::string, 2>, std::size_t> ranks_;
};

enum class Way { bytes, bytes_after_space, other, sentence_piece };

struct Subject {
  std::string name;
  Way way;
  llama::Tokenizer tokenizer;
  std::unique_ptr<PlainBpe> plain;
};

void check_golden(const Subject& subject) {
  const json golden = stored("golden"), more = stored("golden_more");
  const auto compare = [&](const json& texts, const json& ids, std::size_t first) {
    fuzz::require(first + texts.size() <= ids.size(), "golden ids are missing");
    for (std::size_t i = 0; i < texts.size(); ++i)
      fuzz::require(
          subject.tokenizer.encode(texts[i].get<std::string>()) == ids[first + i].get<Ids>(),
          subject.name + ": other ids than the published library for " + texts[i].dump());
  };
  const bool old = golden["ids"].contains(subject.name);
  const json& ids = more["ids"][subject.name];
  if (old) compare(golden["strings"], golden["ids"][subject.name], 0);
  if (!old) compare(golden["strings"], ids, 0);
  const std::size_t first = old ? 0 : golden["strings"].size();
  compare(more["unnormalized"], ids, first);
  compare(more["more"], ids, first + more["unnormalized"].size());
}

const std::vector<Subject>& subjects() {
  static const auto all = [] {
    std::vector<Subject> result;
    const std::pair<const char*, Way> kinds[] = {
        {"llama3", Way::bytes},           {"smollm", Way::bytes},
        {"gpt2", Way::bytes_after_space}, {"qwen2", Way::other},
        {"llama2", Way::sentence_piece},  {"mistral", Way::sentence_piece},
        {"gemma", Way::sentence_piece},   {"phi3", Way::sentence_piece}};
    for (const auto& [name, way] : kinds) {
      if (name == std::string("qwen2") && !llama::can_normalize()) continue;
      result.push_back(
          {name, way, llama::Tokenizer(folder + name + ".json"),
           way == Way::sentence_piece ? std::make_unique<PlainBpe>(stored(name)) : nullptr});
      check_golden(result.back());
    }
    return result;
  }();
  return all;
}

/// What the model sees of a text without added tokens.
std::string prepared(const Subject& subject, std::string_view text) {
  if (text.empty()) return {};
  const std::string marked = with_metaspaces(text);
  const bool always = subject.name == "llama2" || subject.name == "phi3";
  const bool once = subject.name == "mistral" && !marked.starts_with("\xE2\x96\x81");
  return (always || once ? "\xE2\x96\x81" : "") + marked;
}

void check_ids(const Subject& subject, std::string_view text, const Ids& ids) {
  std::string made;
  for (const std::int32_t id : ids) {
    fuzz::require(id >= 0 && id < subject.tokenizer.vocabulary(), "an id beyond the vocabulary");
    made += subject.tokenizer.text_of(id);
  }
  // An added token, which ends in '>' or has one inside, may take white space beside it away, and
  // gets a space put behind it.
  if (text.find('>') != text.npos) return;
  if (subject.way == Way::bytes) fuzz::require(made == text, "tokens do not make up the text");
  if (subject.way == Way::bytes_after_space)
    fuzz::require(made == text || made == std::string(" ").append(text),
                  "tokens do not make up the text");
  if (subject.plain && text.size() <= 512)
    fuzz::require(ids == subject.plain->encode(prepared(subject, text)),
                  subject.name + ": other ids than the plain merge loop");
}

void check_cuts(const Subject& subject, std::string_view text, const Ids& ids) {
  std::vector<std::size_t> cuts{0};
  for (const std::string& character : plain_characters(text))
    cuts.push_back(cuts.back() + character.size());
  const llama::CutIds cut = subject.tokenizer.encode(text, cuts, "the input");
  fuzz::require(cut.ids == ids, "cuts change ids");
  fuzz::require(cut.before.size() == cuts.size() && cut.before.front() == 0 &&
                    cut.before.back() == ids.size(),
                "cuts are not answered");
  for (std::size_t i = 1; i < cut.before.size(); ++i)
    fuzz::require(cut.before[i - 1] <= cut.before[i], "answers of cuts decrease");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  const Subject& subject = subjects()[input.below(subjects().size())];
  const std::string_view text = input.rest();
  Ids ids;
  const bool encoded =
      fuzz::accepts<std::runtime_error>([&] { ids = subject.tokenizer.encode(text); });
  const bool is_utf8 = text.empty() || !plain_characters(text).empty();
  fuzz::require(encoded == is_utf8, "a text must be encoded if and only if it is UTF-8");
  if (!encoded) return 0;
  fuzz::require(subject.tokenizer.encode(text) == ids, "a second time a text has other ids");
  check_ids(subject, text, ids);
  check_cuts(subject, text, ids);
  return 0;
}
