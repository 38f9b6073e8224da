// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Choices that have names.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
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

/// The choice of that name; none if no choice has it.
template <typename Choice, std::size_t size>
std::optional<Choice> find_choice(const std::array<Named<Choice>, size>& table,
                                  std::string_view name) noexcept {
  for (const auto& row : table) {
    if (row.name == name) return row.choice;
  }
  return std::nullopt;
}

}  // namespace llama
