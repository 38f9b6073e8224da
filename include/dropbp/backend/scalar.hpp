// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// 16-bit floating-point types for any compiler, with the layout of CUDA's __nv_bfloat16 and __half.
// They only store values and convert to and from float; arithmetic is done in float.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "dropbp/base/config.hpp"

#if defined(__CUDACC__)
#define DROPBP_HOST_DEVICE __host__ __device__ __forceinline__
#define DROPBP_DEVICE __device__ __forceinline__
#else
#define DROPBP_HOST_DEVICE inline
#define DROPBP_DEVICE inline
#endif
// Host compilers do not know these pragmas.
#if defined(__CUDA_ARCH__)
#define DROPBP_UNROLL _Pragma("unroll")
#define DROPBP_NO_UNROLL _Pragma("unroll 1")
#else
#define DROPBP_UNROLL
#define DROPBP_NO_UNROLL
#endif

DROPBP_NAMESPACE_BEGIN

/// The upper half of a float: 8 bits of exponent, 7 bits of fraction.
struct BFloat16 {
  std::uint16_t bits;  ///< as in memory
};

/// IEEE 754 binary16: 5 bits of exponent, 10 bits of fraction.
struct Half {
  std::uint16_t bits;  ///< as in memory
};

/// The scalars of the CPU's operations. BFloat16 only stores values: sums are in float.
template <class T>
concept HostScalar = std::is_floating_point_v<T> || std::is_same_v<T, BFloat16>;

namespace detail {

// std::bit_cast is not available in device code.
DROPBP_HOST_DEVICE std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
DROPBP_HOST_DEVICE float float_of(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace detail

/// The value; exact.
DROPBP_HOST_DEVICE float to_float(float value) { return value; }

/// The value; exact.
DROPBP_HOST_DEVICE float to_float(BFloat16 value) {
  return detail::float_of(static_cast<std::uint32_t>(value.bits) << 16);
}

/// The value; exact.
DROPBP_HOST_DEVICE float to_float(Half value) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
#else
  const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000u) << 16,
                      magnitude = value.bits & 0x7FFFu;
  if (magnitude >= 0x7C00u)
    return detail::float_of(sign | 0x7F800000u | (magnitude & 0x3FFu) << 13);  // infinity, NaN
  if (magnitude >= 0x400u) return detail::float_of(sign | ((magnitude << 13) + (112u << 23)));
  const float subnormal = static_cast<float>(magnitude) * 0x1p-24f;  // exact
  return detail::float_of(sign | detail::bits_of(subnormal));
#endif
}

/// Rounds to nearest, ties to even. NaN stays NaN. T is float, BFloat16 or Half.
template <class T>
DROPBP_HOST_DEVICE T from_float(float value) {
  if constexpr (std::is_same_v<T, float>) {
    return value;
  } else if constexpr (std::is_same_v<T, BFloat16>) {
#if defined(__CUDA_ARCH__)
    BFloat16 result;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
    return result;
#else
    const std::uint32_t bits = detail::bits_of(value);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return {0x7FFFu};  // the NaN that the hardware returns
    return {static_cast<std::uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16)};
#endif
  } else {
    static_assert(std::is_same_v<T, Half>);
#if defined(__CUDA_ARCH__)
    Half result;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
    return result;
#else
    const std::uint32_t bits = detail::bits_of(value), sign = bits >> 16 & 0x8000u,
                        magnitude = bits & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u) return {0x7FFFu};  // the NaN that the hardware returns
    if (magnitude >= 0x477FF000u)
      return {static_cast<std::uint16_t>(sign | 0x7C00u)};  // 65520 and above round to infinity
    if (magnitude <
        0x38800000u) {  // subnormal: the sum has the rounded fraction in its lowest bits
      const std::uint32_t fraction =
          detail::bits_of(detail::float_of(magnitude) + 0.5f) - 0x3F000000u;
      return {static_cast<std::uint16_t>(sign | fraction)};
    }
    const std::uint32_t rounded = magnitude - (112u << 23) + 0xFFFu + (magnitude >> 13 & 1u);
    return {static_cast<std::uint16_t>(sign | rounded >> 13)};
#endif
  }
}

DROPBP_NAMESPACE_END
