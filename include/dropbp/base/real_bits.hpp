// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Doubles by their bits. What is asked here has the same answer in every build: -ffast-math lets a
// compiler take it that no number is NaN, infinite or -0, and a processor that subnormal numbers
// are 0. Comparisons of finite numbers are safe, those that are to find out the others are not.
#pragma once

#include <bit>
#include <cstdint>

#include "dropbp/base/config.hpp"

DROPBP_NAMESPACE_BEGIN
namespace detail {

/// `volatile`, because clang++ would not look at the bits of an argument that it may take to be
/// finite.
inline std::uint64_t bits_of(double value) noexcept {
  const volatile double seen = value;
  return std::bit_cast<std::uint64_t>(double{seen});
}

/// False for infinities and NaN.
inline bool is_finite(double value) noexcept { return ((bits_of(value) >> 52) & 0x7FFu) != 0x7FFu; }

/// False for infinities.
inline bool is_nan(double value) noexcept {
  return (bits_of(value) & ~(std::uint64_t{1} << 63)) > std::uint64_t{0x7FF} << 52;
}

/// |value|: 0 for -0.
inline double magnitude(double value) noexcept {
  return std::bit_cast<double>(bits_of(value) & ~(std::uint64_t{1} << 63));
}

/// e where 2^e <= value < 2^(e + 1), for a finite number other than 0; subnormal ones too. Not the
/// number that it is for 0: -1075, less than for all others.
inline int exponent_of(double value) noexcept {
  const std::uint64_t bits = bits_of(value);
  const int biased = static_cast<int>((bits >> 52) & 0x7FFu);
  if (biased != 0) return biased - 1023;
  return -1075 + static_cast<int>(std::bit_width(bits & 0xFFFFFFFFFFFFFu));
}

/// value * 2^exponent, exactly, for a finite value. A result below the normal numbers is 0, one
/// beyond the largest is that.
inline double times_power_of_two(double value, int exponent) noexcept {
  const std::uint64_t bits = bits_of(value);
  const std::uint64_t sign = bits & std::uint64_t{1} << 63;
  std::uint64_t fraction = bits & 0xFFFFFFFFFFFFFu;
  if (bits << 1 == 0) return value;
  const int result = exponent_of(value) + exponent;
  if (result < -1022) return std::bit_cast<double>(sign);
  if (result > 1023) return std::bit_cast<double>(sign | 0x7FEFFFFFFFFFFFFFu);
  if ((bits >> 52 & 0x7FFu) == 0)  // its leading one is implied from now on
    fraction = fraction << (53 - std::bit_width(fraction)) & 0xFFFFFFFFFFFFFu;
  return std::bit_cast<double>(sign | static_cast<std::uint64_t>(result + 1023) << 52 | fraction);
}

/// The exponent of the largest of them, as exponent_of tells it.
template <class Values>
int largest_exponent(const Values& values) noexcept {
  int largest = -1075;
  for (const double value : values)
    if (const int exponent = exponent_of(value); exponent > largest) largest = exponent;
  return largest;
}

}  // namespace detail
DROPBP_NAMESPACE_END
