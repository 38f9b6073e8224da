// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

#include "llama/formats/normalizer.hpp"

#include <fmt/format.h>

#include <array>
#include <cstddef>
#include <stdexcept>
#include <utility>

namespace llama {
namespace {

using json = nlohmann::json;
using File = TokenizerFile;

constexpr std::array<std::pair<const char*, NormalForm>, 4> forms{{{"NFC", NormalForm::nfc},
                                                                   {"NFD", NormalForm::nfd},
                                                                   {"NFKC", NormalForm::nfkc},
                                                                   {"NFKD", NormalForm::nfkd}}};

std::string replaced(std::string_view text, std::string_view from, std::string_view by) {
  std::string result;
  std::size_t begin = 0;
  for (std::size_t at = text.find(from); at != std::string_view::npos;
       at = text.find(from, begin)) {
    result += text.substr(begin, at - begin);
    result += by;
    begin = at + from.size();
  }
  return result += text.substr(begin);
}

std::string replaced(std::string_view text, const Regex& pattern, std::string_view by) {
  std::string result;
  std::size_t begin = 0;
  while (const auto match = pattern.find(text, begin)) {
    result += text.substr(begin, match->begin - begin);
    result += by;
    begin = match->end;
  }
  return result += text.substr(begin);
}

}  // namespace

Normalizer::Normalizer(const TokenizerFile& file) {
  if (const json& root = File::member(file.root(), "normalizer"); !root.is_null())
    add(file, root, "normalizer");
}

void Normalizer::add(const TokenizerFile& file, const json& object, const std::string& key) {
  const json& type = File::member(object, "type");
  if (type == "Sequence") {
    const json& list = File::member(object, "normalizers");
    if (!list.is_array()) file.fail(key + ".normalizers", "a list", list);
    for (std::size_t i = 0; i < list.size(); ++i)
      add(file, list[i], fmt::format("{}.normalizers[{}]", key, i));
    return;
  }
  for (const auto& [name, form] : forms)
    if (type == name) {
      if (!can_normalize())
        file.fail(key,
                  "one that needs no utf8proc, without which this program was built "
                  "(apt-get install libutf8proc-dev on Debian and Ubuntu, and build again)",
                  object);
      steps_.emplace_back(form);
      return;
    }
  if (type == "Prepend") {
    steps_.emplace_back(Prepend{file.string(File::member(object, "prepend"), key + ".prepend")});
  } else if (type == "Replace") {
    const json& pattern = File::member(object, "pattern");
    const std::string by = file.string(File::member(object, "content"), key + ".content");
    if (const json& text = File::member(pattern, "String"); text.is_string() && text != "")
      steps_.emplace_back(ReplaceText{text.get<std::string>(), by});
    else if (const json& regex = File::member(pattern, "Regex"); regex.is_string())
      steps_.emplace_back(ReplaceMatches{file.regex(regex, key + ".pattern"), by});
    else
      file.fail(key + ".pattern", "a String that is not empty or a Regex", pattern);
  } else {
    file.fail(key + ".type", "NFC, NFD, NFKC, NFKD, Prepend, Replace or a Sequence of them", type);
  }
}

std::string Normalizer::operator()(std::string_view text) const {
  struct Apply {
    std::string_view text;
    std::string operator()(NormalForm form) const { return normalized(text, form); }
    std::string operator()(const Prepend& step) const {
      return text.empty() ? std::string() : step.text + std::string(text);
    }
    std::string operator()(const ReplaceText& step) const {
      return replaced(text, step.text, step.by);
    }
    std::string operator()(const ReplaceMatches& step) const {
      return replaced(text, step.pattern, step.by);
    }
  };
  std::string result(text);
  for (const Step& step : steps_) result = std::visit(Apply{result}, step);
  return result;
}

}  // namespace llama
