// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What the program prints.
#pragma once

#include <string_view>

namespace llama {

/// To be called first, with the name that say() puts in front of its lines. Opens those of the
/// three standard streams that were closed, so that no file the program writes, such as a model,
/// takes the place of one and is printed into. Each is opened for the wrong direction: using it
/// still fails.
void open_standard_streams(const char* program);

/// A line on standard error; a failure is ignored.
void say(std::string_view text);

/// Text on standard output. Throws std::runtime_error where it cannot be written, unless the reader
/// is gone (a closed pipe or terminal).
void print(std::string_view text);

}  // namespace llama
