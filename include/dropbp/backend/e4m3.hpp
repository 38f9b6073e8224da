// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Numbers in 8 bits: 4 bits of exponent, 3 bits of fraction ("e4m3fn"; Micikevicius et al., "FP8
// Formats for Deep Learning", 2022), and the scales of rows of them.
#pragma once

#include "dropbp/backend/scalar.hpp"

DROPBP_NAMESPACE_BEGIN

/// A sign, 4 bits of exponent with a bias of 7, and 3 bits of fraction. The largest value is 448;
/// there is no infinity, and all magnitude bits set are NaN.
struct E4m3 {
  std::uint8_t bits;  ///< as in memory
};

/// The value; exact.
DROPBP_HOST_DEVICE float to_float(E4m3 value) {
  const unsigned magnitude = value.bits & 0x7Fu, sign = value.bits & 0x80u;
  if (magnitude == 0x7Fu) return detail::float_of(0x7FC00000u);
  // Shifted, the bits are those of a Half, whose bias is larger by 8.
  return to_float(Half{static_cast<std::uint16_t>(sign << 8 | magnitude << 7)}) * 256.0f;
}

/// Rounds to nearest, ties to even. Larger magnitudes become 448, also infinity; NaN stays NaN.
DROPBP_HOST_DEVICE E4m3 to_e4m3(float value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  std::uint16_t both;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(both) : "f"(0.0f), "f"(value));
  return {static_cast<std::uint8_t>(both)};
#else
  const std::uint32_t bits = detail::bits_of(value), sign = bits >> 24 & 0x80u,
                      magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return {0x7Fu};  // the NaN that the hardware returns
  if (magnitude >= 0x43E00000u) return {static_cast<std::uint8_t>(sign | 0x7Eu)};  // from 448 on
  if (magnitude < 0x3C800000u) {  // below 2^-6: the sum has the rounded fraction in its lowest bits
    const std::uint32_t fraction =
        detail::bits_of(detail::float_of(magnitude) + 0x1p14f) - 0x46800000u;
    return {static_cast<std::uint8_t>(sign | fraction)};
  }
  const std::uint32_t rounded = magnitude - (120u << 23) + 0x7FFFFu + (magnitude >> 20 & 1u);
  return {static_cast<std::uint8_t>(sign | rounded >> 20)};
#endif
}

/// The scale of a row whose largest magnitude has these bits (of a float without its sign), and
/// its inverse.
///
/// It is the least power of two by which the row can be divided so that all of it is at most 448,
/// but at least 2^-117. Codes times a power of two are exact in float and BFloat16, also the
/// smallest ones, and so is a division by it. NaN if the magnitude is infinite or NaN.
struct E4m3Scale {
  float scale;    ///< a power of two
  float inverse;  ///< 1 / scale, exactly
};
/// See E4m3Scale.
DROPBP_HOST_DEVICE E4m3Scale e4m3_scale(std::uint32_t magnitude) {
  if (magnitude >= 0x7F800000u)
    return {detail::float_of(0x7FC00000u), detail::float_of(0x7FC00000u)};
  // 448 is 1.75 * 2^8.
  const std::uint32_t above = (magnitude & 0x7FFFFFu) > 0x600000u ? 1u : 0u;
  std::uint32_t exponent = (magnitude >> 23) + above;
  exponent = exponent < 18u ? 10u : exponent - 8u;
  return {detail::float_of(exponent << 23), detail::float_of((254u - exponent) << 23)};
}

DROPBP_NAMESPACE_END
