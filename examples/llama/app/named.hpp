// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Choices that have names.
#pragma once

#include <string_view>

namespace llama {

/// A choice and its name on the command line.
template <typename Choice>
struct Named {
  Choice choice;
  std::string_view name;
};
template <typename Choice>  // clang++ 14 deduces no aggregates by itself
Named(Choice, std::string_view) -> Named<Choice>;

/// The name of a choice in a table of Named.
template <typename Table, typename Choice>
std::string_view find_name(const Table& table, Choice choice) noexcept {
  for (const auto& row : table) {
    if (row.choice == choice) return row.name;
  }
  return "?";
}

}  // namespace llama
