// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What the reader and the writer of safetensors headers share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "llama/formats/dtype.hpp"

namespace llama {

inline constexpr std::uint64_t header_limit =
    100'000'000;  // bytes; the reference reader's MAX_HEADER_SIZE
// Bounds the memory that a hostile header takes. The largest models have about 150,000 tensors in
// all their files.
inline constexpr std::size_t tensor_limit = 1 << 18;
inline constexpr std::size_t chunk_elements = 1 << 16;  // converted at a time
inline constexpr std::string_view metadata_key = "__metadata__";

// In __metadata__: "dropbp.crc32c" of the header and "dropbp.crc32c.NAME" of each tensor, eight
// hexadecimal digits each.
inline constexpr std::string_view checksum_key = "dropbp.crc32c";
inline constexpr std::size_t checksum_digits = 8;

/// Bytes of a tensor; empty if the product overflows or is no whole number of bytes.
[[nodiscard]] std::optional<std::uint64_t> bytes_of(std::span<const std::ptrdiff_t> shape,
                                                    DType dtype);

/// Position of the digits of the header's checksum; npos if there is none.
[[nodiscard]] std::size_t find_header_checksum(std::string_view header);

/// Checksum of the length and the header, with zeros in place of the checksum.
[[nodiscard]] std::uint32_t header_checksum(std::string_view header, std::size_t digits);

}  // namespace llama
