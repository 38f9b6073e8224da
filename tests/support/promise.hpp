// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// How a test states the figures of a promise that tests/promises.sh collects.
#pragma once

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace dropbp_test {

/// Prints one line for tests/promises.sh: "promise 7: violations=0 draws=10000000". `figures` is a
/// printf format of NAME=VALUE with spaces between. Over all lines of a promise, names that begin
/// with "least" are combined by the minimum, with "worst" or "most" by the maximum, others are
/// added; values that are no numbers are listed once each.
[[gnu::format(printf, 2, 3)]] inline void promise(int number, const char* figures, ...) {
  std::printf("promise %d: ", number);
  std::va_list arguments;
  va_start(arguments, figures);
  std::vprintf(figures, arguments);
  va_end(arguments);
  std::printf("\n");
  std::fflush(stdout);
}

/// Whether the long form of a check is wanted, which takes minutes (DROPBP_PROMISES=full).
inline bool full_promises() {
  const char* const form = std::getenv("DROPBP_PROMISES");
  return form != nullptr && std::strcmp(form, "full") == 0;
}

}  // namespace dropbp_test
