// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A tokenizer.json of any bytes: the file is refused or encodes any text, and its metadata for GGUF
// are made or refused.
#include <fmt/format.h>

#include <string>

#include "fuzz.hpp"
#include "llama/formats/gguf_tokenizer.hpp"
#include "llama/formats/tokenizer.hpp"

namespace {

void check(const llama::Tokenizer& tokenizer) {
  const std::ptrdiff_t vocabulary = tokenizer.vocabulary();
  fuzz::require(vocabulary > 0, "a tokenizer without tokens");
  for (const char* text :
       {"", "Hello  world's\n\n 12 <|end|> x", " \u00e9\u4e2d\u2581 a\U0001f600"})
    fuzz::accepts<std::runtime_error>([&] {
      const auto ids = tokenizer.encode(text);
      for (const std::int32_t id : ids) {
        fuzz::require(id >= 0 && id < vocabulary, "an id beyond the vocabulary");
        (void)tokenizer.text_of(id);
      }
      fuzz::require(tokenizer.encode(text) == ids, "a second time a text has other ids");
    });
  for (const std::int32_t id : tokenizer.beginning())
    fuzz::require(id >= 0 && id < vocabulary, "an id of the beginning beyond the vocabulary");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace llama;
  static const fuzz::MemoryFile memory;
  const std::string_view text = fuzz::text_of(data, size);
  memory.write(text);
  std::optional<Tokenizer> tokenizer;
  if (!fuzz::accepts<std::runtime_error>([&] { tokenizer.emplace(memory.path()); })) return 0;
  check(*tokenizer);
  // Ids without a token become unused ones: a file with one large id would take minutes.
  if (tokenizer->vocabulary() > 4096) return 0;
  fuzz::accepts<std::runtime_error>([&] {
    const Companions companions{.config = {}, .files = {{"tokenizer.json", std::string(text)}}};
    fuzz::require(!gguf_tokenizer(companions, tokenizer->vocabulary()).empty(), "no metadata");
  });
  return 0;
}
