// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// All flags of the program, with their help.
#pragma once

#include <CLI/CLI.hpp>

#include "llama/app/flags.hpp"
#include "llama/app/option_rules.hpp"
#include "llama/app/options.hpp"

namespace llama {

/// Adds them to `app`; the conversions, run after the parse, fill `options`. All must outlive it.
[[nodiscard]] Given declare(CLI::App& app, Flags::Conversions& conversions, Options& options);

}  // namespace llama
