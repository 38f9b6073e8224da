// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The hash of plans and rates: equal on all machines.
#pragma once

#include <bit>
#include <cstdint>
#include <span>

#include "dropbp/base/config.hpp"

DROPBP_NAMESPACE_BEGIN
namespace detail {

/// The finaliser of splitmix64 over a running hash (Steele, Lea, Flood: "Fast splittable
/// pseudorandom number generators", OOPSLA 2014).
constexpr std::uint64_t mix(std::uint64_t hash, std::uint64_t value) noexcept {
  hash += value + 0x9E3779B97F4A7C15u;
  hash = (hash ^ (hash >> 30)) * 0xBF58476D1CE4E5B9u;
  hash = (hash ^ (hash >> 27)) * 0x94D049BB133111EBu;
  return hash ^ (hash >> 31);
}

inline std::uint64_t hash_of(std::span<const double> values) noexcept {
  std::uint64_t hash = values.size();
  for (const double value : values) hash = mix(hash, std::bit_cast<std::uint64_t>(value));
  return hash;
}

}  // namespace detail
DROPBP_NAMESPACE_END
