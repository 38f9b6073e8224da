// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

#include "llama/app/packing.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <stdexcept>

namespace llama {

std::vector<std::vector<std::size_t>> pack(std::span<const std::size_t> sizes,
                                           std::size_t capacity) {
  std::vector<std::size_t> order(sizes.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, [&](std::size_t a, std::size_t b) {
    return sizes[a] != sizes[b] ? sizes[a] > sizes[b] : a < b;
  });
  std::vector<std::vector<std::size_t>> rows;
  std::multimap<std::size_t, std::size_t> room;  // what is left over, of which row
  for (const std::size_t sample : order) {
    const std::size_t size = sizes[sample];
    if (size > capacity)
      throw std::invalid_argument(
          fmt::format("a sample must fit its row of {} tokens, but it has "
                      "{}; cut it or leave it out before",
                      capacity, size));
    const auto best = room.lower_bound(size);
    std::size_t row = rows.size(), left = capacity;
    if (best == room.end()) {
      rows.emplace_back();
    } else {
      left = best->first, row = best->second;
      room.erase(best);
    }
    rows[row].push_back(sample);
    room.emplace(left - size, row);
  }
  return rows;
}

}  // namespace llama
