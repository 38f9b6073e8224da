// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

#include "llama/formats/utf8.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <stdexcept>

#ifdef DROPBP_UTF8PROC
#include <utf8proc.h>
#endif

namespace llama {

// One function, though with many branches: they are the table of UTF-8's byte ranges.
std::size_t character_size(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t size = first >= 0xC2 && first < 0xE0   ? 2
                           : first >= 0xE0 && first < 0xF0 ? 3
                           : first >= 0xF0 && first < 0xF5 ? 4
                                                           : 0;
  if (size == 0 || text.size() < size) return 0;
  // No overlong forms, no surrogates, nothing above U+10FFFF.
  const unsigned low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  const unsigned high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  if (byte(1) < low || byte(1) > high) return 0;
  for (std::size_t i = 2; i < size; ++i)
    if ((byte(i) & 0xC0U) != 0x80) return 0;
  return size;
}

unsigned code_of(std::string_view text) {
  const std::size_t size = character_size(text);
  unsigned code = static_cast<unsigned char>(text[0]) & (size == 1 ? 0x7FU : 0xFFU >> (size + 1));
  for (std::size_t i = 1; i < size; ++i)
    code = code << 6 | (static_cast<unsigned char>(text[i]) & 0x3FU);
  return code;
}

void check_utf8(std::string_view text, const std::string& what) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t size = character_size(text.substr(at));
    if (size == 0)
      throw std::runtime_error(fmt::format(
          "{} must be UTF-8 for a tokenizer, but byte {} (0x{:02X}) is not; convert it, with iconv "
          "for example",
          what, at, static_cast<unsigned char>(text[at])));
    at += size;
  }
}

#ifdef DROPBP_UTF8PROC

bool can_normalize() noexcept { return true; }

std::string normalized(std::string_view text, NormalForm form) {
  // No character below U+0300 changes in NFC, nor one below U+0080 in any form.
  const unsigned char least = form == NormalForm::nfc ? 0xCC : 0x80;
  if (std::ranges::none_of(text, [&](char c) { return static_cast<unsigned char>(c) >= least; }))
    return std::string(text);
  const bool composes = form == NormalForm::nfc || form == NormalForm::nfkc,
             compatible = form == NormalForm::nfkc || form == NormalForm::nfkd;
  const int options = UTF8PROC_STABLE | (composes ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) |
                      (compatible ? UTF8PROC_COMPAT : 0);
  utf8proc_uint8_t* bytes = nullptr;
  const utf8proc_ssize_t size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                             static_cast<utf8proc_ssize_t>(text.size()), &bytes,
                                             static_cast<utf8proc_option_t>(options));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(bytes, &std::free);
  if (size < 0)
    throw std::runtime_error(
        fmt::format("a text of {} bytes must be normalized, but utf8proc "
                    "fails: {}; split the text",
                    text.size(), utf8proc_errmsg(size)));
  return {reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(size)};
}

#else

bool can_normalize() noexcept { return false; }

std::string normalized(std::string_view, NormalForm) {
  throw std::runtime_error(
      "a normal form of Unicode needs utf8proc, but this program was built without it; install it "
      "(apt-get install libutf8proc-dev on Debian and Ubuntu), configure and build again");
}

#endif

}  // namespace llama
