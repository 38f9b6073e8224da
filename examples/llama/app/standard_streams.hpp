// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Standard output and standard error.
#pragma once

#include <string_view>

namespace llama {

/// Call it first, with the name that say() puts in front of its lines. Opens each closed standard
/// stream, so that a file that the program opens later, such as a model, does not get its
/// descriptor and receive printed text. The stream is opened for the wrong direction, so using it
/// still fails.
void open_standard_streams(const char* program);

/// From now on say() and print() do nothing: another process of the job speaks.
void silence();

/// Prints a line on standard error; failures are ignored.
void say(std::string_view text);

/// Prints text on standard output. Throws std::runtime_error if it cannot be written, unless the
/// pipe or terminal was closed.
void print(std::string_view text);

}  // namespace llama
