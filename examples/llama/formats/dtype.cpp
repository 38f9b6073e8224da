// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

#include "llama/formats/dtype.hpp"

#include <algorithm>
#include <array>
#include <bit>

namespace llama {
namespace {

struct DTypeRow {
  DType dtype;
  std::string_view name;
  std::size_t bits;
};
constexpr std::array dtype_table{
    DTypeRow{DType::boolean, "BOOL", 8},    DTypeRow{DType::f4, "F4", 4},
    DTypeRow{DType::f6_e2m3, "F6_E2M3", 6}, DTypeRow{DType::f6_e3m2, "F6_E3M2", 6},
    DTypeRow{DType::u8, "U8", 8},           DTypeRow{DType::i8, "I8", 8},
    DTypeRow{DType::f8_e5m2, "F8_E5M2", 8}, DTypeRow{DType::f8_e4m3, "F8_E4M3", 8},
    DTypeRow{DType::f8_e8m0, "F8_E8M0", 8}, DTypeRow{DType::i16, "I16", 16},
    DTypeRow{DType::u16, "U16", 16},        DTypeRow{DType::f16, "F16", 16},
    DTypeRow{DType::bf16, "BF16", 16},      DTypeRow{DType::i32, "I32", 32},
    DTypeRow{DType::u32, "U32", 32},        DTypeRow{DType::f32, "F32", 32},
    DTypeRow{DType::c64, "C64", 64},        DTypeRow{DType::f64, "F64", 64},
    DTypeRow{DType::i64, "I64", 64},        DTypeRow{DType::u64, "U64", 64},
};

constexpr bool table_follows_enum() {
  for (std::size_t i = 0; i < dtype_table.size(); ++i) {
    if (static_cast<std::size_t>(dtype_table[i].dtype) != i) return false;
  }
  return true;
}
static_assert(table_follows_enum());

}  // namespace

std::string_view dtype_name(DType dtype) noexcept {
  return dtype_table[static_cast<std::size_t>(dtype)].name;
}
std::size_t dtype_bits(DType dtype) noexcept {
  return dtype_table[static_cast<std::size_t>(dtype)].bits;
}

std::optional<DType> find_dtype(std::string_view name) {
  const auto* row = std::ranges::find(dtype_table, name, &DTypeRow::name);
  return row == dtype_table.end() ? std::nullopt : std::optional(row->dtype);
}

float half_to_float(std::uint16_t bits) noexcept {
  const std::uint32_t sign = (bits & 0x8000u) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1fu;
  const std::uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | mantissa << 13);
  if (exponent != 0)
    return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);  // bias 127 - 15
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;  // zero and subnormals, exact
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
}

std::uint16_t float_to_half(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u)
    return static_cast<std::uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  if (magnitude >= 0x477ff000u)
    return static_cast<std::uint16_t>(sign | 0x7c00u);  // from 65520 on: infinity
  std::uint32_t source = magnitude - 0x38000000u;       // exponent rebiased from 127 to 15
  std::uint32_t shift = 13;
  if (magnitude < 0x38800000u) {  // below 2^-14: a multiple of 2^-24
    const std::uint32_t exponent = magnitude >> 23;
    if (exponent < 102) return static_cast<std::uint16_t>(sign);  // below 2^-25
    source = (magnitude & 0x7fffffu) | 0x800000u;
    shift = 126 - exponent;
  }
  std::uint32_t half = source >> shift;
  const std::uint32_t rest = source & ((1u << shift) - 1);
  const std::uint32_t tie = 1u << (shift - 1);
  if (rest > tie || (rest == tie && (half & 1u) != 0))
    ++half;  // a carry into the exponent is right
  return static_cast<std::uint16_t>(sign | half);
}

float bfloat16_to_float(std::uint16_t bits) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

std::uint16_t float_to_bfloat16(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u)
    return static_cast<std::uint16_t>((bits >> 16) | 0x40u);  // NaN stays NaN
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace llama
