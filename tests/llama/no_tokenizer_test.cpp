// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Built instead of tokenizer_test.cpp if there is no PCRE2.
#include "llama/formats/regex.hpp"
#include "llama/formats/tokenizer.hpp"
#include "support/catch.hpp"
#include "support/throws.hpp"

TEST_CASE("tokenizer: without PCRE2 the error says how to get it") {
  CHECK(!llama::Regex::available());
  test::check_throws<std::runtime_error>(
      [] { llama::Tokenizer("none"); }, {"needs PCRE2", "libpcre2-dev", "build again", "--tokens"});
}
