// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What a benchmark trains: "full", all weights; "lora", adapters; "qlora", adapters over 4-bit
// weights.
#pragma once

#include <string_view>

#include <dropbp/ops/lora.hpp>

namespace bench {

inline dropbp::ops::LoraConfig lora_of(std::string_view mode) {
  if (mode == "full") return {};
  return {.rank = 8, .quantize = mode == "qlora"};
}

}  // namespace bench
