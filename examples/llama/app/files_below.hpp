// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The files of a folder, in an order that is the same on every machine.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace llama {

/// Relative paths with '/' of all regular files below `folder`, sorted as bytes. What is hidden is
/// left out. Throws std::runtime_error if the folder cannot be listed.
[[nodiscard]] std::vector<std::string> files_below(const std::filesystem::path& folder);

}  // namespace llama
