// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

#include "llama/formats/pre_tokenizer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "llama/formats/utf8.hpp"

namespace llama {
namespace {

using json = nlohmann::json;
using File = TokenizerFile;

// GPT-2's pattern, which ByteLevel stands for.
constexpr const char* byte_level_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

}  // namespace

PreTokenizer::PreTokenizer(const TokenizerFile& file) {
  const json& root = File::member(file.root(), "pre_tokenizer");
  if (!root.is_null()) add(file, root, "pre_tokenizer");
}

void PreTokenizer::add(const TokenizerFile& file, const json& object, const std::string& key) {
  const json& type = File::member(object, "type");
  if (type == "Sequence") {
    const json& list = File::member(object, "pretokenizers");
    if (!list.is_array()) file.fail(key + ".pretokenizers", "a list", list);
    for (std::size_t i = 0; i < list.size(); ++i)
      add(file, list[i], fmt::format("{}.pretokenizers[{}]", key, i));
    return;
  }
  if (byte_level_) file.fail(key, "absent behind ByteLevel", type);
  if (type == "ByteLevel") {
    byte_level_ = true;
    steps_.push_back(byte_level_step(file, object, key));
  } else if (type == "Metaspace") {
    steps_.push_back(metaspace_step(file, object, key));
  } else if (type == "Split") {
    steps_.push_back(split_step(file, object, key));
  } else if (type == "Digits") {
    Step step;
    step.regex.emplace(file.boolean(object, key + ".", "individual_digits", false) ? R"(\p{N})"
                                                                                   : R"(\p{N}+)");
    steps_.push_back(std::move(step));
  } else {
    file.fail(key + ".type", "ByteLevel, Metaspace, Split, Digits or a Sequence of them", type);
  }
}

PreTokenizer::Step PreTokenizer::byte_level_step(const TokenizerFile& file, const json& object,
                                                 const std::string& key) {
  Step step;
  step.space = std::string(1, ' ');
  if (file.boolean(object, key + ".", "add_prefix_space", true)) step.prefix = Prefix::always;
  if (file.boolean(object, key + ".", "use_regex", true)) step.regex.emplace(byte_level_pattern);
  return step;
}

PreTokenizer::Step PreTokenizer::metaspace_step(const TokenizerFile& file, const json& object,
                                                const std::string& key) {
  Step step;
  const json& space = File::member(object, "replacement");
  step.space = file.string(space, key + ".replacement");
  if (step.space.empty() || character_size(step.space) != step.space.size())
    file.fail(key + ".replacement", "one character", space);
  const bool prefixes = file.boolean(object, key + ".", "add_prefix_space", true);
  const json& scheme = File::member(object, "prepend_scheme");
  const bool contradicts = !prefixes && !scheme.is_null() && scheme != "never";
  if (scheme == "first")
    step.prefix = Prefix::first;
  else if (scheme == "always" || (scheme.is_null() && prefixes))
    step.prefix = Prefix::always;
  else if (!scheme.is_null() && scheme != "never")
    file.fail(key + ".prepend_scheme", "first, always or never", scheme);
  if (contradicts) file.fail(key + ".prepend_scheme", "never without add_prefix_space", scheme);
  if (file.boolean(object, key + ".", "split", true)) {
    step.text = step.space;
    step.behavior = Behavior::merged_with_next;
  }
  return step;
}

PreTokenizer::Step PreTokenizer::split_step(const TokenizerFile& file, const json& object,
                                            const std::string& key) {
  Step step;
  const json& pattern = File::member(object, "pattern");
  if (const json& regex = File::member(pattern, "Regex"); regex.is_string())
    step.regex.emplace(file.regex(regex, key + ".pattern"));
  else if (const json& text = File::member(pattern, "String"); text.is_string() && text != "")
    step.text = text.get<std::string>();
  else
    file.fail(key + ".pattern", "a String that is not empty or a Regex", pattern);
  constexpr std::pair<const char*, Behavior> behaviors[] = {
      {"Removed", Behavior::removed},
      {"Isolated", Behavior::isolated},
      {"MergedWithPrevious", Behavior::merged_with_previous},
      {"MergedWithNext", Behavior::merged_with_next},
      {"Contiguous", Behavior::contiguous}};
  const json& behavior = File::member(object, "behavior");
  const auto found =
      std::ranges::find_if(behaviors, [&](const auto& one) { return behavior == one.first; });
  if (found == std::end(behaviors))
    file.fail(key + ".behavior",
              "Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous", behavior);
  step.behavior = found->second;
  step.inverted = file.boolean(object, key + ".", "invert", false);
  return step;
}

std::string PreTokenizer::rewritten(const Step& step, std::string_view text, bool at_start) {
  std::string result;
  if (text.empty()) return result;
  const std::string_view front = text.substr(0, 1) == " " ? std::string_view(step.space) : text;
  const bool prefixes = step.prefix == Prefix::always || (step.prefix == Prefix::first && at_start);
  if (prefixes && !front.starts_with(step.space)) result = step.space;
  for (const char c : text) {
    if (c == ' ')
      result += step.space;
    else
      result += c;
  }
  return result;
}

std::vector<PreTokenizer::Part> PreTokenizer::parts_of(const Step& step, std::string_view text) {
  std::vector<Part> parts;
  std::size_t begin = 0;
  const auto match = [&](std::size_t from, std::size_t to) {
    if (begin < from) parts.push_back({begin, from, step.inverted});
    parts.push_back({from, to, !step.inverted});
    begin = to;
  };
  if (step.regex) {
    while (const auto found = step.regex->find(text, begin)) match(found->begin, found->end);
  } else if (!step.text.empty()) {
    for (std::size_t at = text.find(step.text); at != std::string_view::npos;
         at = text.find(step.text, begin))
      match(at, at + step.text.size());
  }
  if (begin < text.size()) parts.push_back({begin, text.size(), step.inverted});
  return parts;
}

// As the library joins them: of a run of matches only the first joins the part before, or the last
// the part behind.
std::vector<PreTokenizer::Part> PreTokenizer::joined(const Step& step, std::vector<Part> parts) {
  std::vector<Part> result;
  bool matched = false;  // the part before
  const auto join = [&](const Part& part, auto joins) {
    const bool before = std::exchange(matched, part.matches);
    if (joins(before, part.matches) && !result.empty()) {
      result.back().begin = std::min(result.back().begin, part.begin);
      result.back().end = std::max(result.back().end, part.end);
    } else {
      result.push_back(part);
    }
  };
  const auto begins_run = [](bool before, bool now) { return now && !before; };
  switch (step.behavior) {
    case Behavior::removed:
      std::erase_if(parts, [](const Part& part) { return part.matches; });
      return parts;
    case Behavior::isolated:
      return parts;
    case Behavior::contiguous:
      for (const Part& part : parts) join(part, std::equal_to<>());
      return result;
    case Behavior::merged_with_previous:
      for (const Part& part : parts) join(part, begins_run);
      return result;
    case Behavior::merged_with_next:
      std::ranges::reverse(parts);
      for (const Part& part : parts) join(part, begins_run);
      std::ranges::reverse(result);
      return result;
  }
  return parts;
}

void PreTokenizer::split(const Piece& piece, std::size_t number,
                         const std::function<void(const Piece&)>& word) const {
  if (number == steps_.size()) return word(piece);
  const Step& step = steps_[number];
  Piece whole = piece;
  std::string text;
  const bool rewrites = step.prefix != Prefix::never || (!step.space.empty() && step.space != " ");
  if (rewrites) {
    whole.text = text = rewritten(step, piece.text, piece.at_start);
    for (std::size_t& cut : whole.cuts)
      cut = rewritten(step, piece.text.substr(0, cut), piece.at_start).size();
  }
  for (const Part& part : joined(step, parts_of(step, whole.text))) {
    Piece next{.text = whole.text.substr(part.begin, part.end - part.begin),
               .cuts = {},
               .at_start = whole.at_start && part.begin == 0};
    for (const std::size_t cut : whole.cuts)
      if (cut < part.end) next.cuts.push_back(cut > part.begin ? cut - part.begin : 0);
    // Each is asked for once.
    std::erase_if(whole.cuts, [&](std::size_t cut) { return cut < part.end; });
    split(next, number + 1, word);
  }
}

}  // namespace llama
