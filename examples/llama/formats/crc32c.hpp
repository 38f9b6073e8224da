// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// CRC-32C (Castagnoli): detects every change within 32 neighbouring bits.
#pragma once

#include <cstddef>
#include <cstdint>

namespace llama {

/// Continues a checksum: crc32c(crc32c(0, "a", 1), "b", 1) is that of "ab". As in iSCSI (RFC 3720,
/// appendix B.4).
[[nodiscard]] std::uint32_t crc32c(std::uint32_t before, const void* bytes,
                                   std::size_t size) noexcept;

}  // namespace llama
