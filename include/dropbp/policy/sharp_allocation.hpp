// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Rates close to 0 or 1: the sensitive branches are kept nearly always.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "dropbp/base/error.hpp"
#include "dropbp/base/view.hpp"
#include "dropbp/dropbp_fwd.hpp"
#include "dropbp/policy/allocation.hpp"
#include "dropbp/policy/optimal_allocation.hpp"

DROPBP_NAMESPACE_BEGIN

/// OptimalAllocation of powers of the sensitivities: the sum of S^sharpness p^2 is least. The
/// larger the exponent, the closer the rates are to 0 or 1. A branch whose sensitivity to this
/// power is below 2^-1022 of the largest counts as insensitive. docs/convergence.md has what it
/// gains.
struct SharpAllocation {
  unsigned sharpness = 4;        ///< the exponent, from 1 (OptimalAllocation) to 64
  double least_keep_rate = 0.0;  ///< every branch is kept at least this often

  /// See Allocation. Throws std::invalid_argument for members outside their ranges, and for a
  /// target that would need a lower keep rate.
  DROPBP_LAZY
  std::vector<double> allocate(const AllocationInput& input) const {
    detail::require_rate(least_keep_rate, "least_keep_rate");
    if (sharpness < 1 || sharpness > 64)
      detail::throw_invalid("the sharpness of a SharpAllocation must be from 1 to 64",
                            "it is " + detail::text(std::size_t{sharpness}),
                            "take 4, or 1 for the sensitivities as they are");
    if (input.drop_rate > 1.0 - least_keep_rate)
      detail::throw_invalid(
          "SharpAllocation reaches a target rate of at most 1 - least_keep_rate, "
          "which is " +
              detail::text(1.0 - least_keep_rate),
          "the target rate is " + detail::text(input.drop_rate),
          "lower the target or least_keep_rate");
    const std::vector<double> powers = powers_of(input.sensitivities);
    AllocationInput sharp = input;
    sharp.sensitivities = detail::view(powers);
    const OptimalAllocation<> optimal{.max_rates = {1.0 - least_keep_rate}};
    return optimal.allocate(sharp);
  }

  bool operator==(const SharpAllocation&) const = default;  ///< equal parameters

 private:
  // Of values scaled by a power of two to at most 2, with rounded products: the same bits in every
  // build.
  DROPBP_LAZY
  std::vector<double> powers_of(std::span<const double> values) const {
    const int shift = -detail::largest_exponent(values);
    std::vector<double> powers;
    powers.reserve(values.size());
    for (const double value : values) {
      const double scaled = detail::times_power_of_two(value, shift);
      double power = scaled;
      for (unsigned i = 1; i < sharpness; ++i) power = detail::rounded(power * scaled);
      powers.push_back(power < detail::smallest_normal_double ? 0.0 : power);
    }
    return powers;
  }
};

DROPBP_NAMESPACE_END
