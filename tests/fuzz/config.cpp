// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The config.json of a model: what is accepted is valid and is the same after it was written.
#include "llama/formats/config.hpp"

#include "fuzz.hpp"
#include "llama/formats/lora_patterns.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace llama;
  const std::string_view text = fuzz::text_of(data, size);
  LlamaConfig config;
  if (!fuzz::accepts<std::runtime_error>([&] { config = parse_config(text, "the input"); }))
    return 0;
  fuzz::require(!problem_of(config), "an accepted config has a problem");
  fuzz::require(parameter_count(config) > 0, "a model without parameters");
  for (const std::ptrdiff_t sequence : {1, 4096})
    for (const double frequency :
         rope_frequencies(config.traits.rope, config.rope_theta, config.rotary(), sequence))
      fuzz::require(frequency == frequency, "a frequency of RoPE is not a number");
  const LlamaConfig again = parse_config(config_json(config, "float32", text), "the output");
  fuzz::require(again == config, "a config differs after it was written");
  return 0;
}
