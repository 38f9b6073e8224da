// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Training data as token ids and as plain text. The first byte chooses which.
#include <bit>
#include <string>

#include "fuzz.hpp"
#include "llama/app/data.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace llama;
  static const fuzz::MemoryFile memory;
  fuzz::Input input(data, size);
  const std::size_t choice = input.below(3);
  const std::string_view bytes = input.rest();
  memory.write(bytes);
  const DataOptions options{.vocabulary = 300, .validation_fraction = 0.1};
  const std::size_t width = choice == 0 ? 2 : choice == 1 ? 4 : 1;
  std::optional<TokenData> tokens;
  if (!fuzz::accepts<std::runtime_error>([&] {
        if (choice == 2)
          tokens = TokenData::from_text(memory.path(), options);
        else
          tokens = TokenData::from_tokens(memory.path(),
                                          choice == 0 ? TokenType::u16 : TokenType::i32, options);
      }))
    return 0;
  fuzz::require(tokens->train().size() + tokens->validation().size() == bytes.size() / width,
                "ids are missing");
  std::size_t at = 0;
  for (const auto part : {tokens->train(), tokens->validation()}) {
    for (const std::int32_t id : part) {
      std::uint32_t value = 0;
      for (std::size_t i = 0; i < width; ++i)
        value |= std::uint32_t{static_cast<unsigned char>(bytes[at + i])} << 8 * i;
      at += width;
      fuzz::require(id == std::bit_cast<std::int32_t>(value) && id >= 0 && id < 300,
                    "an id differs from the file");
    }
  }
  const BatchOptions batches{
      .batch = 2, .sequence = 8, .micro_steps = 1, .seed = 1, .eval_batches = 2};
  fuzz::accepts<std::runtime_error>([&] {
    const auto source = tokens->training(batches);
    Batch batch;
    source->fill(1, 0, batch);
    for (const std::int32_t id : batch.inputs) fuzz::require(id >= 0 && id < 300, "a wrong id");
  });
  return 0;
}
