// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The names and numbers are those that llama.cpp's convert_hf_to_gguf.py writes.
#include "llama/formats/gguf_tokenizer.hpp"

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>

#include <fmt/format.h>

#include "llama/formats/strict_json.hpp"

namespace llama {
namespace {

using nlohmann::json;

enum TokenKind : std::int32_t {
  normal = 1,
  unknown = 2,
  control = 3,
  user_defined = 4,
  unused = 5,
  byte = 6
};

[[noreturn]] void fail(const std::string& required, const std::string& given) {
  throw std::runtime_error(
      fmt::format("a GGUF file needs {}, but {}; write the model with --out-format safetensors and "
                  "convert it with llama.cpp's convert_hf_to_gguf.py",
                  required, given));
}

/// Pre-tokenizers by what is peculiar to each; the first that is in the text of the JSON counts.
constexpr struct {
  std::string_view part, name;
} pre_tokenizers[] = {{R"(\\p{N}{1,3})", "llama-bpe"},
                      {R"([^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|)", "qwen2"},
                      {R"("individual_digits":true)", "smollm"}};

std::string pre_tokenizer_name(const json& tokenizer) {
  const json node = tokenizer.value("pre_tokenizer", json());
  const std::string text = node.dump();
  for (const auto& [part, name] : pre_tokenizers)
    if (text.find(part) != text.npos) return std::string(name);
  if (node.is_object() && node.value("type", "") == "ByteLevel" && node.value("use_regex", true) &&
      !node.value("add_prefix_space", true))
    return "gpt-2";
  fail(
      "a pre-tokenizer that llama.cpp has a name for, as those of GPT-2, LLaMA-3, Qwen2 and SmolLM",
      fmt::format("it is {}", clipped(text)));
}

/// GPT-2's character for a byte.
std::string character_of(int byte) {
  const auto shown = [](int b) {
    return (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
  };
  int code = byte;
  if (!shown(byte)) {
    code = 256;
    for (int b = 0; b < byte; ++b) code += shown(b) ? 0 : 1;
  }
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
}

struct Tokens {
  std::vector<std::string> texts;
  std::vector<std::int32_t> kinds;
  std::unordered_map<std::string, std::size_t> ids;

  explicit Tokens(std::size_t count) : kinds(count, unused) {
    for (std::size_t i = 0; i < count; ++i) texts.push_back(fmt::format("[PAD{}]", i));
  }
  void set(const json& id, const std::string& text, TokenKind kind) {
    const bool fits = id.is_number_unsigned() && id.get<std::uint64_t>() < texts.size();
    if (!fits)
      fail(fmt::format("ids below the vocabulary of {}", texts.size()),
           fmt::format("'{}' has {}", clipped(text), clipped(id.dump())));
    const auto at = id.get<std::size_t>();
    texts[at] = text, kinds[at] = kind, ids[text] = at;
  }
};

bool is_byte_token(const std::string& text) {
  return text.size() == 6 && text.starts_with("<0x") && text.ends_with(">");
}

std::vector<std::string> merges_of(const json& model) {
  std::vector<std::string> merges;
  for (const json& merge : model.value("merges", json::array()))
    merges.push_back(merge.is_array()
                         ? merge.at(0).get<std::string>() + " " + merge.at(1).get<std::string>()
                         : merge.get<std::string>());
  return merges;
}

/// SentencePiece merges the pair whose result has the highest score: that of the earliest merge.
std::vector<float> scores_of(const Tokens& tokens, const std::vector<std::string>& merges) {
  std::vector<float> scores(tokens.texts.size(), 0.0f);
  for (std::size_t rank = merges.size(); rank-- > 0;) {
    std::string joined = merges[rank];
    joined.erase(joined.find(' '), 1);
    if (const auto found = tokens.ids.find(joined); found != tokens.ids.end())
      scores[found->second] = -1.0f - static_cast<float>(rank);
  }
  return scores;
}

json companion(const Companions& companions, const char* name) {
  const auto file = companions.files.find(name);
  return file == companions.files.end()
             ? json::object()
             : parse_strict_json(file->second, fmt::format("'{}'", name));
}

/// Of "bos_token" and the like: by the name in tokenizer_config.json, else the id in config.json.
std::optional<std::uint32_t> special_id(const Companions& companions, const Tokens& tokens,
                                        const std::string& key) {
  json name = companion(companions, "tokenizer_config.json").value(key, json());
  if (name.is_object()) name = json(name.value("content", json()));
  if (name.is_string())
    if (const auto found = tokens.ids.find(name.get<std::string>()); found != tokens.ids.end())
      return static_cast<std::uint32_t>(found->second);
  if (companions.config.empty()) return std::nullopt;
  json id = parse_strict_json(companions.config, "'config.json'").value(key + "_id", json());
  if (id.is_array() && !id.empty()) id = json(id.front());
  if (id.is_number_unsigned() && id.get<std::uint64_t>() < tokens.texts.size())
    return id.get<std::uint32_t>();
  return std::nullopt;
}

/// Whether the tokenizer puts its first token in front of a text.
bool adds_bos(const json& tokenizer) {
  const std::string text = tokenizer.value("post_processor", json()).dump();
  return text.find("\"TemplateProcessing\"") != text.npos &&
         text.find("\"single\":[{\"SpecialToken\"") != text.npos;
}

Tokens tokens_of(const json& tokenizer, const json& model, bool bytes_fall_back,
                 std::ptrdiff_t vocabulary) {
  Tokens tokens(static_cast<std::size_t>(vocabulary));
  const json vocab = model.value("vocab", json::object());
  for (const auto& [text, id] : vocab.items())
    tokens.set(id, text, bytes_fall_back && is_byte_token(text) ? byte : normal);
  for (const json& added : tokenizer.value("added_tokens", json::array()))
    tokens.set(added.value("id", json()), added.value("content", ""),
               added.value("special", false) ? control : user_defined);
  if (const json name = model.value("unk_token", json()); bytes_fall_back && name.is_string())
    if (const auto found = tokens.ids.find(name.get<std::string>()); found != tokens.ids.end())
      tokens.kinds[found->second] = unknown;
  return tokens;
}

GgufMetadata of_bytes() {
  std::vector<std::string> texts;
  for (int i = 0; i < 256; ++i) texts.push_back(character_of(i));
  return {{"tokenizer.ggml.model", "gpt2"},
          {"tokenizer.ggml.pre", "gpt-2"},
          {"tokenizer.ggml.tokens", texts},
          {"tokenizer.ggml.token_type", std::vector<std::int32_t>(256, normal)},
          {"tokenizer.ggml.merges", std::vector<std::string>{}},
          {"tokenizer.ggml.add_bos_token", false}};
}

}  // namespace

GgufMetadata gguf_tokenizer(const Companions& companions, std::ptrdiff_t vocabulary) {
  if (!companions.files.contains("tokenizer.json")) {
    if (vocabulary != 256)
      fail("the model's tokenizer", "there is no tokenizer.json beside the weights");
    return of_bytes();
  }
  const json tokenizer = companion(companions, "tokenizer.json");
  const json model = tokenizer.value("model", json::object());
  if (model.value("type", "BPE") != "BPE")
    fail("a tokenizer of type BPE", fmt::format("it is {}", clipped(model.value("type", ""))));
  const bool bytes_fall_back = model.value("byte_fallback", false);
  const Tokens tokens = tokens_of(tokenizer, model, bytes_fall_back, vocabulary);
  const std::vector<std::string> merges = merges_of(model);
  GgufMetadata metadata;
  if (bytes_fall_back) {
    metadata = {{"tokenizer.ggml.model", "llama"},
                {"tokenizer.ggml.pre", "default"},
                {"tokenizer.ggml.tokens", tokens.texts},
                {"tokenizer.ggml.scores", scores_of(tokens, merges)},
                {"tokenizer.ggml.token_type", tokens.kinds}};
  } else {
    metadata = {{"tokenizer.ggml.model", "gpt2"},
                {"tokenizer.ggml.pre", pre_tokenizer_name(tokenizer)},
                {"tokenizer.ggml.tokens", tokens.texts},
                {"tokenizer.ggml.token_type", tokens.kinds},
                {"tokenizer.ggml.merges", merges}};
  }
  for (const auto& [key, name] :
       {std::pair("bos_token", "bos"), std::pair("eos_token", "eos"),
        std::pair("unk_token", "unknown"), std::pair("pad_token", "padding")})
    if (const auto id = special_id(companions, tokens, key))
      metadata.emplace_back(fmt::format("tokenizer.ggml.{}_token_id", name), *id);
  metadata.emplace_back("tokenizer.ggml.add_bos_token", adds_bos(tokenizer));
  json chat = companion(companions, "tokenizer_config.json").value("chat_template", json());
  if (const auto file = companions.files.find("chat_template.jinja");
      file != companions.files.end())
    chat = file->second;
  if (chat.is_string()) metadata.emplace_back("tokenizer.chat_template", chat.get<std::string>());
  return metadata;
}

}  // namespace llama
