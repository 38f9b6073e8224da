// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// One run of the program, from the options to the last file.
#pragma once

#include "llama/app/options.hpp"
#include "llama/app/ranks.hpp"

namespace llama {

/// Trains with the other ranks, of which the first one prints and writes. Returns the exit code: 0,
/// or 128 + the signal after an interrupted training. Throws UsageError if the options do not fit
/// each other or the files, and std::runtime_error for other failures; results that can be written
/// are written first.
[[nodiscard]] int run(const Options& options, Ranks& ranks);

}  // namespace llama
