// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Characters of UTF-8, and Unicode's normal forms by utf8proc.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace llama {

/// Throws std::runtime_error with the position of the first byte that is not UTF-8; `what` names
/// the text ("'x/a.txt'").
void check_utf8(std::string_view text, const std::string& what);

/// Bytes of the valid character at the front, 0 if there is none.
[[nodiscard]] std::size_t character_size(std::string_view text);

/// The character at the front of valid UTF-8.
[[nodiscard]] unsigned code_of(std::string_view text);

enum class NormalForm { nfc, nfd, nfkc, nfkd };

/// Whether this program was built with utf8proc.
[[nodiscard]] bool can_normalize() noexcept;

/// Of valid UTF-8. Throws std::runtime_error without utf8proc.
[[nodiscard]] std::string normalized(std::string_view text, NormalForm form);

}  // namespace llama
