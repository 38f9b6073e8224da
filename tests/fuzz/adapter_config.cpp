// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The adapter_config.json of an adapter: what is accepted is the same after it was written.
#include "llama/formats/adapter_config.hpp"

#include <vector>

#include "fuzz.hpp"
#include "llama/formats/lora_patterns.hpp"

namespace {

/// Members that the file says; the written one has names where the first had patterns.
void compare(const llama::ops::LoraConfig& first, const llama::ops::LoraConfig& second,
             const std::vector<std::string>& linears) {
  fuzz::require(
      first.rank == second.rank && first.alpha == second.alpha && first.dropout == second.dropout &&
          first.rank_stabilized == second.rank_stabilized &&
          first.magnitudes == second.magnitudes && first.modules_to_save == second.modules_to_save,
      "an adapter's config differs after it was written");
  fuzz::require(first.exceptions.size() == second.exceptions.size(),
                "an adapter's ranks differ after they were written");
  fuzz::require(first.exceptions.size() <= linears.size(), "more ranks than maps");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace llama;
  const LlamaConfig model{
      .vocabulary = 16, .hidden = 8, .intermediate = 8, .layers = 2, .heads = 2, .kv_heads = 1};
  static const std::vector<std::string> linears = linear_names(model);
  ops::LoraConfig lora;
  if (!fuzz::accepts<std::runtime_error>(
          [&] { lora = parse_adapter_config(fuzz::text_of(data, size), "the input", linears); }))
    return 0;
  fuzz::require(lora.rank >= 1 && lora.dropout >= 0.0 && lora.dropout < 1.0,
                "an accepted adapter's config has a wrong rank or dropout");
  compare(lora,
          parse_adapter_config(adapter_config_json(lora, "base", model), "the output", linears),
          linears);
  return 0;
}
