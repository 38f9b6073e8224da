// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Where the adapters, biases and magnitudes of fused linear maps lie, and their names.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "dropbp/ops/lora.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {
namespace detail {

// The adapter of one linear map.
struct AdapterPlace {
  std::size_t part;       // the map
  Index output, outputs;  // its rows of the weight
  Index row_m;            // its first row of the magnitudes
  Index row_a, rank;      // its rows of lora_a
  Index row_b;            // its first row of lora_b, or of its own
  double scale;           // of its outputs
  bool of_common_rank;    // it is in lora_b
  std::size_t number;     // in other_lora_b, unless it is in lora_b
};

// "q_proj" of "q_proj.weight".
inline std::string_view linear_name(std::string_view weight_name) {
  constexpr std::string_view suffix = ".weight";
  if (weight_name.ends_with(suffix)) weight_name.remove_suffix(suffix.size());
  return weight_name;
}

// In the order of the maps.
template <class Part>
std::vector<AdapterPlace> adapter_places(const std::vector<Part>& parts, const LoraConfig& lora) {
  std::vector<AdapterPlace> places;
  Index output = 0, row_m = 0, row_a = 0, row_b = 0;
  std::size_t number = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const Index outputs = parts[i].rows;
    if (const std::string_view name = linear_name(parts[i].name); lora.adapts(name)) {
      const Index rank = lora.rank_of(name);
      const bool common = rank == lora.rank;
      places.push_back({i, output, outputs, row_m, row_a, rank, common ? row_b : 0,
                        lora.scale_of(name), common, number});
      row_m += outputs;
      row_a += rank;
      if (common)
        row_b += outputs;
      else
        ++number;
    }
    output += outputs;
  }
  return places;
}

// The parts of the parameter that has rows_of(place) rows for the adapter at `place`; none for 0.
template <class Part, class Rows>
std::vector<Part> adapter_parts(const std::vector<Part>& parts, const LoraConfig& lora,
                                const char* suffix, const Rows& rows_of) {
  std::vector<Part> result;
  for (const AdapterPlace& one : adapter_places(parts, lora))
    if (const Index rows = rows_of(one); rows > 0)
      result.push_back({std::string(linear_name(parts[one.part].name)) + suffix, rows});
  return result;
}

template <class Part>
std::vector<Part> bias_parts(const std::vector<Part>& parts, bool biased) {
  std::vector<Part> result;
  if (!biased) return result;
  for (const Part& part : parts)
    result.push_back({std::string(linear_name(part.name)) + ".bias", part.rows});
  return result;
}

}  // namespace detail
}  // namespace ops
DROPBP_NAMESPACE_END
