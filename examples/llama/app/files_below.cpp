// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

#include "llama/app/files_below.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>
#include <system_error>

namespace llama {

namespace fs = std::filesystem;

std::vector<std::string> files_below(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  fs::recursive_directory_iterator walk(folder, fs::directory_options::skip_permission_denied,
                                        error);
  for (; !error && walk != fs::recursive_directory_iterator(); walk.increment(error)) {
    std::error_code ignored;
    if (walk->path().filename().string().starts_with('.')) {
      if (walk->is_directory(ignored)) walk.disable_recursion_pending();
    } else if (walk->is_regular_file(ignored)) {
      names.push_back(walk->path().lexically_relative(folder).generic_string());
    }
  }
  if (error) {
    throw std::runtime_error(fmt::format(
        "'{}' must be a folder that can be listed, but {}; check the path and its permissions",
        folder.string(), error.message()));
  }
  std::ranges::sort(names);
  return names;
}

}  // namespace llama
