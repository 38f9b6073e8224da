// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What tests read from a plan.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dropbp/plan.hpp"

namespace dropbp_test {

/// Bit i says whether branch i of at most 32 is kept.
inline std::uint32_t kept_mask(const dropbp::DropPlan& plan) {
  std::uint32_t mask = 0;
  for (std::size_t i = 0; i < plan.size(); ++i) mask |= std::uint32_t{plan.kept(i)} << i;
  return mask;
}

}  // namespace dropbp_test
