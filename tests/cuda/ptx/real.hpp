// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Floating-point operations of a GPU, written apart from the library's own conversions.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace ptx::real {

// A sum of doubles and its rounding error.
struct Sum {
  double value, error;
};

inline Sum product_sum(float a, float b, float c) {
  const double product = double{a} * double{b}, addend = c;  // the product is exact
  const double sum = product + addend;
  const double shift = sum - product;
  return {sum, (product - (sum - shift)) + (addend - shift)};
}

/// a * b + c, rounded once to nearest.
inline float fma(float a, float b, float c) {
  const Sum sum = product_sum(a, b, c);
  // Rounding to float goes wrong only if rounding to double gave a tie of floats that was none, or
  // hid one: an inexact sum is made odd first.
  auto bits = std::bit_cast<std::uint64_t>(sum.value);
  const bool inexact = sum.error < 0 || sum.error > 0;  // false for NaN
  const bool even = (bits & 1) == 0;
  const bool towards_zero = (sum.error < 0) == (sum.value > 0);
  const std::uint64_t odd = towards_zero ? bits - 1 : bits + 1;
  bits = inexact && even ? odd : bits;
  return static_cast<float>(std::bit_cast<double>(bits));
}

/// a * b + c, rounded once towards minus infinity.
inline float fma_down(float a, float b, float c) {
  const Sum sum = product_sum(a, b, c);
  const float nearest = static_cast<float>(sum.value);
  const double above = double{nearest} - sum.value;  // exact: both are doubles close together
  const bool is_above = above > 0 || (above == 0 && sum.error < 0);
  return is_above && !std::isinf(sum.value)
             ? std::nextafter(nearest, -std::numeric_limits<float>::infinity())
             : nearest;
}

inline bool is_subnormal(float x) { return x != 0 && std::fabs(x) < 0x1p-126f; }
inline float flushed(float x, bool flush) {
  return flush && is_subnormal(x) ? std::copysign(0.0f, x) : x;
}

/// `exact` with the largest relative error, up or down as bits of the operand say.
inline float approximation(double exact, float operand, double error) {
  const auto bits = std::bit_cast<std::uint32_t>(operand) * 2654435761u;
  return static_cast<float>(exact * (bits >> 31 ? 1 + error : 1 - error));
}

/// Relative errors of approximations that kernels must bear, before the rounding to float.
inline constexpr double ex2_error = 0x1p-22, rcp_error = 0x1p-24, rsqrt_error = 0x1p-22;

inline float ex2(float x, bool flush) {
  x = flushed(x, flush);
  const double exact = std::exp2(double{x});
  return flushed(
      x == std::floor(x) ? static_cast<float>(exact) : approximation(exact, x, ex2_error), flush);
}

inline float rcp(float x, bool flush) {
  x = flushed(x, flush);
  return flushed(std::fabs(x) > 0 ? approximation(1.0 / double{x}, x, rcp_error) : 1.0f / x, flush);
}

inline float rsqrt(float x, bool flush) {
  x = flushed(x, flush);
  return x > 0 ? approximation(1.0 / std::sqrt(double{x}), x, rsqrt_error) : 1.0f / std::sqrt(x);
}

/// Within two units in the last place; 0 for divisors from 2^126 on.
inline float quotient(float a, float b) {
  if (std::fabs(b) > 0x1p126f && std::fabs(b) <= std::numeric_limits<float>::max())
    return std::copysign(0.0f, a) * std::copysign(1.0f, b);
  return approximation(double{a} / double{b}, b, 0x1p-23);
}

inline float from_half(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const float sign = bits & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 31)
    return mantissa != 0 ? std::numeric_limits<float>::quiet_NaN()
                         : sign * std::numeric_limits<float>::infinity();
  if (exponent == 0) return sign * static_cast<float>(mantissa) * 0x1p-24f;
  return sign * static_cast<float>(1024 + mantissa) *
         std::bit_cast<float>(static_cast<std::uint32_t>(exponent - 25 + 127) << 23);
}

/// To nearest, ties to even.
inline std::uint16_t to_half(float x) {
  const auto sign = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(x) >> 16 & 0x8000);
  const float size = std::fabs(x);
  if (std::isnan(x)) return 0x7FFF;
  if (size >= 65520.0f) return sign | 0x7C00;
  // Adding a float whose last bit has the weight of the half's last bit rounds to it.
  if (size < 0x1p-14f) {
    const float shifted = size + 0x1p-1f;  // the last bit weighs 2^-24
    return static_cast<std::uint16_t>(
        sign | (std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(0x1p-1f)));
  }
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(size);
  const std::uint32_t rounded = bits + 0xFFF + (bits >> 13 & 1);
  return static_cast<std::uint16_t>(sign | ((rounded >> 13) - ((127 - 15) << 10)));
}

inline float from_bfloat(std::uint16_t bits) {
  return std::bit_cast<float>(std::uint32_t{bits} << 16);
}

/// To nearest, ties to even.
inline std::uint16_t to_bfloat(float x) {
  if (std::isnan(x)) return 0x7FFF;
  const auto bits = std::bit_cast<std::uint32_t>(x);
  return static_cast<std::uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

/// e4m3: to nearest, ties to even, and to 448 above.
inline std::uint8_t to_e4m3(float x) {
  const auto sign = static_cast<std::uint8_t>(std::signbit(x) ? 0x80 : 0);
  if (std::isnan(x)) return 0x7F;
  const double size = std::fmin(std::fabs(double{x}), 448.0);
  int exponent = 0;
  std::frexp(size, &exponent);  // size < 2^exponent
  // The last bit weighs 2^-9, or an eighth of the leading one.
  const double weight = std::ldexp(1.0, exponent > -5 ? exponent - 4 : -9);
  const double value = std::nearbyint(size / weight) * weight;
  const int power = value < 0x1p-6 ? -6 : std::ilogb(value);
  const auto units = static_cast<int>(std::ldexp(value, 3 - power));  // of its last bit
  return static_cast<std::uint8_t>(sign | (units < 8 ? units : (power + 6) * 8 + units));
}

}  // namespace ptx::real
