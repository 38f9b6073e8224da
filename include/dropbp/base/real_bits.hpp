// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Functions on the bits of doubles, with the same result in every build. -ffast-math lets the
// compiler assume that no number is NaN, infinite or -0, and can make the processor treat subnormal
// numbers as 0. Floating-point comparisons are therefore safe only between finite numbers; tests
// for NaN, infinity, sign and subnormal numbers use the bits.
#pragma once

#include <bit>
#include <cstdint>

#include "dropbp/base/config.hpp"

DROPBP_NAMESPACE_BEGIN
namespace detail {

// <limits> would cost every user of the header more.
inline constexpr double largest_double = 0x1.fffffffffffffp+1023;
inline constexpr double smallest_normal_double = 0x1p-1022;

/// The read is `volatile`, because with -ffast-math clang++ assumes that the argument is finite and
/// removes a test of its bits.
inline std::uint64_t bits_of(double value) noexcept {
  const volatile double seen = value;
  return std::bit_cast<std::uint64_t>(double{seen});
}

/// False for infinity and NaN.
inline bool is_finite(double value) noexcept { return ((bits_of(value) >> 52) & 0x7FFu) != 0x7FFu; }

/// True for NaN only.
inline bool is_nan(double value) noexcept {
  return (bits_of(value) & ~(std::uint64_t{1} << 63)) > std::uint64_t{0x7FF} << 52;
}

/// |value|; +0 for -0.
inline double magnitude(double value) noexcept {
  return std::bit_cast<double>(bits_of(value) & ~(std::uint64_t{1} << 63));
}

/// The exponent e with 2^e <= |value| < 2^(e + 1), for finite values, subnormal ones included.
/// Returns -1075 for 0, which is less than the exponent of any other double.
inline int exponent_of(double value) noexcept {
  const std::uint64_t bits = bits_of(value);
  const int biased = static_cast<int>((bits >> 52) & 0x7FFu);
  if (biased != 0) return biased - 1023;
  return -1075 + static_cast<int>(std::bit_width(bits & 0xFFFFFFFFFFFFFu));
}

/// value * 2^exponent for a finite value, exact if the result is a normal number. Smaller results
/// become 0; larger ones become the largest double.
inline double times_power_of_two(double value, int exponent) noexcept {
  const std::uint64_t bits = bits_of(value);
  const std::uint64_t sign = bits & std::uint64_t{1} << 63;
  std::uint64_t fraction = bits & 0xFFFFFFFFFFFFFu;
  if (bits << 1 == 0) return value;
  const int result = exponent_of(value) + exponent;
  if (result < -1022) return std::bit_cast<double>(sign);
  if (result > 1023) return std::bit_cast<double>(sign | 0x7FEFFFFFFFFFFFFFu);
  if ((bits >> 52 & 0x7FFu) == 0)  // in a normal number the leading one is implicit
    fraction = fraction << (53 - std::bit_width(fraction)) & 0xFFFFFFFFFFFFFu;
  return std::bit_cast<double>(sign | static_cast<std::uint64_t>(result + 1023) << 52 | fraction);
}

/// The largest exponent_of of the values; -1075 if there are none.
template <class Values>
int largest_exponent(const Values& values) noexcept {
  int largest = -1075;
  for (const double value : values)
    if (const int exponent = exponent_of(value); exponent > largest) largest = exponent;
  return largest;
}

}  // namespace detail
DROPBP_NAMESPACE_END
