// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Which samples share a row of a batch.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace llama {

/// Numbers of the samples of each row, in the order in which they stand in it. Sizes are at most
/// `capacity`; the longest samples are placed first, each where the least room is left over (best
/// fit decreasing). A function of the sizes alone.
[[nodiscard]] std::vector<std::vector<std::size_t>> pack(std::span<const std::size_t> sizes,
                                                         std::size_t capacity);

}  // namespace llama
