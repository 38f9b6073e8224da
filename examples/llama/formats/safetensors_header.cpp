// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

#include "llama/formats/safetensors_header.hpp"

#include <limits>
#include <string>

#include "llama/formats/crc32c.hpp"

namespace llama {
namespace {

constexpr std::string_view header_checksum_start =
    "\"dropbp.crc32c\":\"";  // quotes within a string would be escaped

std::optional<std::uint64_t> checked_multiply(std::uint64_t a, std::uint64_t b) {
  if (b != 0 && a > std::numeric_limits<std::uint64_t>::max() / b) return std::nullopt;
  return a * b;
}

}  // namespace

std::optional<std::uint64_t> bytes_of(std::span<const std::ptrdiff_t> shape, DType dtype) {
  std::uint64_t count = 1;
  for (const std::ptrdiff_t size : shape) {
    const auto product = checked_multiply(count, static_cast<std::uint64_t>(size));
    if (!product) return std::nullopt;
    count = *product;
  }
  const auto bits = checked_multiply(count, dtype_bits(dtype));
  if (!bits || *bits % 8 != 0) return std::nullopt;
  return *bits / 8;
}

std::size_t find_header_checksum(std::string_view header) {
  const std::size_t start = header.find(header_checksum_start);
  if (start == std::string_view::npos ||
      start + header_checksum_start.size() + checksum_digits > header.size())
    return std::string_view::npos;
  return start + header_checksum_start.size();
}

std::uint32_t header_checksum(std::string_view header, std::size_t digits) {
  const std::uint64_t length = header.size();
  const std::string zeros(checksum_digits, '0');
  const std::string_view rest = header.substr(digits + checksum_digits);
  std::uint32_t checksum = crc32c(0, &length, sizeof length);
  checksum = crc32c(checksum, header.data(), digits);
  checksum = crc32c(checksum, zeros.data(), zeros.size());
  return crc32c(checksum, rest.data(), rest.size());
}

}  // namespace llama
