// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The one error type of the trainer that is not std's: a command line that cannot be obeyed (exit
// code 2).
#pragma once

#include <stdexcept>

namespace llama {

/// Wrong use of the command line. Everything that goes wrong outside the program (files, disks) is
/// a std::runtime_error instead and ends it with exit code 1.
class UsageError : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

}  // namespace llama
