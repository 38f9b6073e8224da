// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Processes eight bytes at a time ("slicing by 8", Kounavis and Berry 2005).
#include "llama/formats/crc32c.hpp"

#include <array>
#include <bit>
#include <cstring>

namespace llama {
namespace {

static_assert(std::endian::native == std::endian::little);

using Tables = std::array<std::array<std::uint32_t, 256>, 8>;

/// Entry [k][b]: what byte b contributes when k more bytes follow it.
constexpr Tables make_tables() {
  Tables tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t value = byte;
    for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ ((value & 1) != 0 ? 0x82f63b78u : 0u);
    tables[0][byte] = value;
  }
  for (std::size_t k = 1; k < 8; ++k)
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t value = tables[k - 1][byte];
      tables[k][byte] = value >> 8 ^ tables[0][value & 0xff];
    }
  return tables;
}

constexpr Tables tables = make_tables();

}  // namespace

std::uint32_t crc32c(std::uint32_t before, const void* bytes, std::size_t size) noexcept {
  const auto* next = static_cast<const unsigned char*>(bytes);
  std::uint32_t value = ~before;
  for (; size >= 8; size -= 8, next += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, next, 8);
    word ^= value;
    value = 0;
    for (std::size_t k = 0; k < 8; ++k) value ^= tables[7 - k][word >> 8 * k & 0xff];
  }
  for (; size > 0; --size, ++next) value = value >> 8 ^ tables[0][(value ^ *next) & 0xff];
  return ~value;
}

}  // namespace llama
