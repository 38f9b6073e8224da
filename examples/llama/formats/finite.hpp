// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Finds NaN and infinity in tensors: a tensor with one is neither read nor written.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace llama {

/// Index of the first NaN or infinity; values.size() if all are finite. T is float or double.
template <class T>
std::size_t first_not_finite(std::span<const T> values) noexcept {
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  constexpr Bits magnitude = static_cast<Bits>(~Bits{0}) >> 1,
                 infinity = std::bit_cast<Bits>(std::numeric_limits<T>::infinity());
  constexpr std::size_t block =
      4096;  // elements; one branch per block, so that the loop is vectorised
  for (std::size_t first = 0; first < values.size(); first += block) {
    const std::size_t last = (std::min)(values.size(), first + block);
    Bits largest = 0;
    for (std::size_t i = first; i < last; ++i)
      largest = (std::max)(largest, static_cast<Bits>(std::bit_cast<Bits>(values[i]) & magnitude));
    if (largest < infinity) continue;
    while ((std::bit_cast<Bits>(values[first]) & magnitude) < infinity) ++first;
    return first;
  }
  return values.size();
}

/// "'model.norm.weight' is NaN at [3]", for element `at` of a tensor of this shape.
template <class T>
std::string not_finite_text(const std::string& name, const std::vector<std::ptrdiff_t>& shape,
                            std::span<const T> values, std::size_t at) {
  std::string place;
  std::size_t rest = at;
  for (auto size = shape.rbegin(); size != shape.rend(); ++size) {
    const std::size_t length = (std::max)(std::size_t{1}, static_cast<std::size_t>(*size));
    place = std::to_string(rest % length) + (place.empty() ? "" : ", ") + place;
    rest /= length;
  }
  return "'" + name + "' is " + (std::isnan(values[at]) ? "NaN" : "infinite") + " at [" + place +
         "]";
}

}  // namespace llama
