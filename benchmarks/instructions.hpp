// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Counts the instructions that a step of the library's trainer executes beyond those of a plain
// trainer. Valgrind counts them exactly, where clocks are too noisy.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>

#include <fmt/format.h>

namespace bench {

namespace detail {

// Instructions of the whole process `program --count TRAINER --count-steps STEPS`.
inline std::optional<double> instructions(const std::string& program, const char* trainer,
                                          int steps) {
  const std::string command = fmt::format(
      "LC_ALL=C valgrind --tool=callgrind --callgrind-out-file=/dev/null '{}' --count {} "
      "--count-steps {} 2>&1",
      program, trainer, steps);
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe(popen(command.c_str(), "r"), pclose);
  if (pipe == nullptr) return std::nullopt;
  std::optional<double> count;
  char line[512];
  while (std::fgets(line, sizeof line, pipe.get()) != nullptr) {
    const std::string text = line;
    const std::size_t at = text.find("Collected :");
    if (at != std::string::npos) count = std::strtod(text.c_str() + at + 11, nullptr);
  }
  return count;
}

}  // namespace detail

/// Returns nothing without valgrind.
inline std::optional<double> extra_instructions(const std::string& program) {
  if (std::system("command -v valgrind >/dev/null 2>&1") != 0) return std::nullopt;
  constexpr int few = 2, many = 6;
  double per_step[2];
  for (const bool plain : {false, true}) {
    const char* const trainer = plain ? "plain" : "library";
    const auto short_run = detail::instructions(program, trainer, few),
               long_run = detail::instructions(program, trainer, many);
    if (!short_run || !long_run) return std::nullopt;
    per_step[plain] = (*long_run - *short_run) / (many - few);
  }
  return per_step[0] - per_step[1];
}

}  // namespace bench
