// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// One run of llama-generate.
#pragma once

#include "llama/app/generate_options.hpp"

namespace llama {

/// Prints what the model writes to standard output as it is written. Throws UsageError for options
/// that do not fit the model, std::runtime_error for what failed.
void generate(const GenerateOptions& options);

}  // namespace llama
