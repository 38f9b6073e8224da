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

/// A finite double as [-]0xH.HHHHHHHHHHHHHp[-]D with trailing zeros cut.
DROPBP_LAZY
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

/// Takes `prefix` from the front of `text`, if it is there.
DROPBP_LAZY
inline bool take(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

/// Takes the digits of a fraction, at most 13, into its 52 bits. False for none or more of them.
DROPBP_LAZY
inline bool take_fraction(std::string_view& text, std::uint64_t& fraction) {
  constexpr std::string_view digits = "0123456789abcdef";
  int shift = 52;
  for (; !text.empty() && digits.find(text.front()) != digits.npos; text.remove_prefix(1)) {
    if (shift == 0) return false;
    shift -= 4;
    fraction |= static_cast<std::uint64_t>(digits.find(text.front())) << shift;
  }
  return shift < 52;
}

/// Takes an exponent, the rest of a number: up to four digits. False for anything else.
DROPBP_LAZY
inline bool take_exponent(std::string_view& text, int& exponent) {
  const bool negative = take(text, "-");
  if (text.empty() || text.size() > 4) return false;
  for (; !text.empty(); text.remove_prefix(1)) {
    const char c = text.front();
    if (c < '0' || c > '9') return false;
    exponent = 10 * exponent + (c - '0');
  }
  if (negative) exponent = -exponent;
  return true;
}

/// Reads exactly what real_to_text writes. For any other text, returns false and leaves `value`
/// unchanged.
DROPBP_LAZY
inline bool real_from_text(std::string_view text, double& value) {
  const std::string_view whole = text;
  std::uint64_t fraction = 0;
  int exponent = 0;
  const bool negative = take(text, "-");
  const bool normal = take(text, "0x1");
  if (!normal && !take(text, "0x0")) return false;
  if (take(text, ".") && !take_fraction(text, fraction)) return false;
  if (!take(text, "p") || !take_exponent(text, exponent)) return false;
  if (normal && (exponent < -1022 || exponent > 1023)) return false;
  const std::uint64_t biased = normal ? static_cast<std::uint64_t>(exponent + 1023) : 0;
  const std::uint64_t sign = negative ? std::uint64_t{1} << 63 : 0;
  const double result = std::bit_cast<double>(sign | biased << 52 | fraction);
  // Not in another spelling, such as 0x1.0p+0 or 0x0p-5.
  if (real_to_text(result) != whole) return false;
  value = result;
  return true;
}

}  // namespace detail
DROPBP_NAMESPACE_END
