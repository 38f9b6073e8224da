// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Drops the lowest branches and keeps the highest.
#pragma once

#include <cstddef>
#include <vector>

#include "dropbp/base/error.hpp"
#include "dropbp/dropbp_fwd.hpp"
#include "dropbp/policy/allocation.hpp"

DROPBP_NAMESPACE_BEGIN

/// The highest branches have rate 0 and the lowest rate 1, as many as the target rate drops by
/// cost. The rate of the branch between them meets the target exactly. Ignores the sensitivities.
///
/// No branch is dropped above a kept one, so the gradients of the kept branches are those of
/// ordinary training. Other allocations replace parts of them by the identity.
/// docs/convergence.md compares both. The branches below are never trained: to train all, take
/// another policy.
struct DepthAllocation {
  static constexpr bool needs_sensitivities() noexcept { return false; }  ///< see Allocation

  /// See Allocation.
  DROPBP_LAZY
  std::vector<double> allocate(const AllocationInput& input) const {
    detail::require_rate(input.drop_rate, "drop_rate");
    std::vector<double> rates(input.costs.size(), input.drop_rate == 1.0 ? 1.0 : 0.0);
    if (input.drop_rate == 0.0 || input.drop_rate == 1.0) return rates;
    double left = input.kept_cost;
    std::size_t branch = rates.size();
    for (; branch > 0 && input.costs[branch - 1] <= left; --branch)
      left = detail::rounded(left - input.costs[branch - 1]);
    for (std::size_t i = 0; i < branch; ++i) rates[i] = 1.0;
    if (branch > 0)
      rates[branch - 1] = detail::rounded(1.0 - detail::rounded(left / input.costs[branch - 1]));
    return rates;
  }

  bool operator==(const DepthAllocation&) const = default;  ///< always equal
};

DROPBP_NAMESPACE_END
