// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// UsageError: a command line that cannot be executed (exit code 2). All other errors are std's.
#pragma once

#include <stdexcept>

namespace llama {

/// Wrong use of the command line. Failures outside the program (files, disks) are
/// std::runtime_error and exit code 1.
class UsageError : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

}  // namespace llama
