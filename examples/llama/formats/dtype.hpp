// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Number types of safetensors files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace llama {

/// Element types of the format (safetensors/src/tensor.rs). Types narrower than a byte are accepted
/// in a header, but cannot be read.
enum class DType {
  boolean,
  f4,
  f6_e2m3,
  f6_e3m2,
  u8,
  i8,
  f8_e5m2,
  f8_e4m3,
  f8_e8m0,
  i16,
  u16,
  f16,
  bf16,
  i32,
  u32,
  f32,
  c64,
  f64,
  i64,
  u64
};

[[nodiscard]] std::string_view dtype_name(DType dtype) noexcept;  ///< as in the file: "F32"
[[nodiscard]] std::size_t dtype_bits(DType dtype) noexcept;
/// Empty for an unknown name.
[[nodiscard]] std::optional<DType> find_dtype(std::string_view name);

/// Bit conversions of IEEE binary16 and bfloat16. NaN stays NaN (made quiet when narrowed),
/// overflow gives infinity.
[[nodiscard]] float half_to_float(std::uint16_t bits) noexcept;
[[nodiscard]] std::uint16_t float_to_half(float value) noexcept;
[[nodiscard]] float bfloat16_to_float(std::uint16_t bits) noexcept;
[[nodiscard]] std::uint16_t float_to_bfloat16(float value) noexcept;

}  // namespace llama
