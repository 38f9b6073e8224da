// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Sums over the costs of the branches, in any unit.
#pragma once

#include <cstddef>
#include <span>

#include "dropbp/base/error.hpp"

DROPBP_NAMESPACE_BEGIN
namespace detail {

// The sum of the costs. Throws std::invalid_argument for a cost that is not positive and finite.
DROPBP_LAZY
inline double total_cost_of(std::span<const double> costs) {
  double sum = 0.0;
  for (std::size_t i = 0; i < costs.size(); ++i) {
    // Subnormal costs are 0 in some builds.
    if (!is_finite(costs[i]) || costs[i] <= 0.0 || exponent_of(costs[i]) < -1022)
      throw_invalid("the cost of a branch must be positive and finite, and at least 2.3e-308",
                    "that of branch " + text(i) + " is " + text(costs[i]),
                    "pass the cost of its forward pass in any unit common to all branches");
    sum = rounded(sum + costs[i]);
  }
  if (!is_finite(sum))
    throw_invalid("the costs of all branches must have a finite sum", "it overflows a double",
                  "pass them in a larger unit");
  return sum;
}

// The mean of the rates weighted by cost. `total` is the sum of the costs.
DROPBP_LAZY
inline double mean_rate(std::span<const double> rates, std::span<const double> costs,
                        double total) {
  // Scaled so that the largest cost is in [1, 2): no product becomes subnormal.
  const int shift = -largest_exponent(costs);
  double dropped = 0.0, lowest = 1.0, highest = 0.0;
  for (std::size_t i = 0; i < rates.size(); ++i) {
    const double cost = times_power_of_two(costs[i], shift);
    dropped = rounded(dropped + rounded(rates[i] * cost));
    if (rates[i] < lowest) lowest = rates[i];
    if (rates[i] > highest) highest = rates[i];
  }
  // Rounding may leave the range of the rates; clipping makes the mean of equal rates exact.
  const double mean = rounded(dropped / times_power_of_two(total, shift));
  return mean < lowest ? lowest : mean > highest ? highest : mean;
}

}  // namespace detail
DROPBP_NAMESPACE_END
