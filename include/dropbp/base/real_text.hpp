// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Converts doubles to text and back, exactly and in every locale, in the hexadecimal notation of
// C99. Python's float.fromhex and C's strtod read this notation too.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "dropbp/base/config.hpp"

DROPBP_NAMESPACE_BEGIN
namespace detail {

/// A finite double as [-]0xH.HHHHHHHHHHHHHp[-]D, without trailing zeros.
inline std::string real_to_text(double value) {
  const std::uint64_t bits = std::bit_cast<std::uint64_t>(value);
  const std::uint64_t biased = (bits >> 52) & 0x7FFu;
  std::uint64_t fraction = bits & 0xFFFFFFFFFFFFFu;
  std::string text = (bits >> 63) != 0 ? "-0x" : "0x";
  text += biased == 0 ? '0' : '1';  // zero and subnormal numbers have no leading one
  if (fraction != 0) text += '.';
  for (; fraction != 0; fraction = (fraction << 4) & 0xFFFFFFFFFFFFFu)
    text += "0123456789abcdef"[fraction >> 48];
  const int exponent = biased != 0 ? static_cast<int>(biased) - 1023 : (bits << 1) == 0 ? 0 : -1022;
  return text + 'p' + std::to_string(exponent);
}

/// Reads exactly what real_to_text writes. For any other text, returns false and leaves `value`
/// unchanged.
inline bool real_from_text(std::string_view text, double& value) {
  const std::string_view whole = text;
  std::uint64_t bits = 0;
  if (text.starts_with('-')) {
    bits = std::uint64_t{1} << 63;
    text.remove_prefix(1);
  }
  if (!text.starts_with("0x") || text.size() < 5 || (text[2] != '0' && text[2] != '1'))
    return false;
  const bool normal = text[2] == '1';
  text.remove_prefix(3);
  std::uint64_t fraction = 0;
  if (text.front() == '.') {
    text.remove_prefix(1);
    int shift = 48;
    for (; !text.empty() && text.front() != 'p'; text.remove_prefix(1), shift -= 4) {
      const char c = text.front();
      const bool digit = c >= '0' && c <= '9';
      if (shift < 0 || (!digit && !(c >= 'a' && c <= 'f'))) return false;
      fraction |= static_cast<std::uint64_t>(digit ? c - '0' : c - 'a' + 10) << shift;
    }
  }
  if (!text.starts_with('p')) return false;
  text.remove_prefix(1);
  const bool negative = text.starts_with('-');
  if (negative) text.remove_prefix(1);
  if (text.empty() || text.size() > 4) return false;
  int exponent = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return false;
    exponent = 10 * exponent + (c - '0');
  }
  if (negative) exponent = -exponent;
  if (normal) {
    if (exponent < -1022 || exponent > 1023) return false;
    bits |= static_cast<std::uint64_t>(exponent + 1023) << 52;
  } else if (exponent != (fraction == 0 ? 0 : -1022)) {
    return false;
  }
  const double result = std::bit_cast<double>(bits | fraction);
  if (real_to_text(result) != whole) return false;  // other spellings, such as 0x1.0p+0
  value = result;
  return true;
}

}  // namespace detail
DROPBP_NAMESPACE_END
