// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What a benchmark trains: "full", all weights; "lora", adapters; "qlora", adapters over 4-bit
// weights; "lora-fp8", adapters over weights that are multiplied in 8 bits.
#pragma once

#include <string_view>

#include <dropbp/ops/lora.hpp>

namespace bench {

inline dropbp::ops::LoraConfig lora_of(std::string_view mode) {
  if (mode == "full") return {};
  using Format = dropbp::ops::QuantizedFormat;
  const bool eight_bits = mode == "lora-fp8";
  return {.rank = 8,
          .quantize = eight_bits || mode == "qlora",
          .format = eight_bits ? Format::fp8 : Format::nf4};
}

}  // namespace bench
