// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A sample as --show-sample prints it.
#pragma once

#include <string>

#include "llama/app/samples.hpp"

namespace llama {

/// A line for each token: its position, its id, whether it is learned, and its text in quotes, with
/// escapes for what cannot be seen. Without a tokenizer ids are bytes.
[[nodiscard]] std::string sample_table(const Sample& sample, const Tokenizer* tokenizer);

}  // namespace llama
