// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The rates with the least total sensitivity for a cost budget.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "dropbp/base/error.hpp"
#include "dropbp/dropbp_fwd.hpp"
#include "dropbp/policy/allocation.hpp"

DROPBP_NAMESPACE_BEGIN

/// phi(p) = p^2: each further drop costs more, the higher the rate already is. The published
/// allocation equalises the marginal cost of this objective, in steps of 0.1.
struct SquaredRate {
  static double rate_at(double slope) { return slope / 2.0; }  ///< solves 2 p = slope
};

/// phi(p) = p / (1 - p): the variance of a gradient that is dropped at rate p and scaled by 1 /
/// (1 - p) when kept.
struct ScaledVariance {
  /// Solves 1 / (1 - p)^2 = slope; 0 for slopes up to 1.
  static double rate_at(double slope) {
    if (!(slope > 1.0)) return 0.0;
    return 1.0 - detail::rounded(1.0 / detail::rounded(detail::square_root(slope)));
  }
};

/// A convex function phi on [0, 1], given by the inverse of its derivative: rate_at(slope) is the
/// rate p with phi'(p) = slope, for slopes from 0 to infinity. rate_at must not decrease. A result
/// outside the bounds is clipped to them.
template <class O>
concept AllocationObjective = std::copyable<O> && requires(const O& objective, double slope) {
  { objective.rate_at(slope) } -> std::same_as<double>;
};

/// Minimises sum_i S_i phi(p_i) over all rates within the bounds whose expected kept cost is within
/// the budget. It is exact up to the rounding of doubles. S_i is the sensitivity and f_i the cost
/// of branch i. Because phi is convex, p_i = clip((phi')^-1(lambda f_i / S_i)) with one lambda for
/// all branches (Boyd, Vandenberghe: "Convex optimization", 5.5.3). lambda is the smallest double
/// whose rates stay within the budget; bisection over its bits takes 63 passes over the branches.
/// Branches with sensitivity 0 are dropped first, all at one rate. Branches with cost 0 stay at
/// their lowest rate, because dropping them saves nothing. Only the ratios of sensitivities and the
/// ratios of costs matter. On 32-bit x86 without SSE2, the last bits of a rate may differ from
/// other builds.
template <class Objective>
struct OptimalAllocation {
  static_assert(
      AllocationObjective<Objective>,
      "dropbp: an objective of OptimalAllocation is a copyable type with double rate_at(double "
      "slope) const, the inverse of phi's derivative. SquaredRate{} is the default.");

  std::vector<double> min_rates = {};  ///< one per branch, one for all, or empty for 0
  /// One per branch, one for all, or empty for 1; a branch with rate 1 never trains.
  std::vector<double> max_rates = {};
  [[no_unique_address]] Objective objective = {};  ///< phi

  /// See Allocation. Throws std::invalid_argument if bounds are outside [0, 1], have the wrong size
  /// or a minimum above the maximum, and if the target needs rates above max_rates.
  std::vector<double> allocate(const AllocationInput& input) const {
    const std::size_t size = input.costs.size();
    // Scaled so that the largest cost lies in [1, 2): products and sums then stay within the range
    // of a double.
    const int shift = -detail::largest_exponent(input.costs);
    const double kept_cost = detail::times_power_of_two(input.kept_cost, shift);
    const std::vector<Branch> branches = prepare(input, shift);
    std::vector<double> rates(size);

    const auto keeps_budget = [&](double lambda, double even_rate) {
      double kept = 0.0;
      for (std::size_t i = 0; i < size; ++i) {
        rates[i] = rate(branches[i], lambda, even_rate);
        kept = detail::rounded(kept +
                               detail::rounded(branches[i].cost * detail::rounded(1.0 - rates[i])));
      }
      return kept <= kept_cost;
    };

    // First tries the lowest rates, then raises the rate of branches with sensitivity 0, then all
    // rates.
    constexpr double largest = detail::largest_double;
    if (keeps_budget(0.0, 0.0)) return rates;
    if (keeps_budget(0.0, 1.0)) {
      keeps_budget(0.0,
                   smallest(1.0, [&](double even_rate) { return keeps_budget(0.0, even_rate); }));
    } else if (keeps_budget(largest, 1.0)) {
      keeps_budget(smallest(largest, [&](double lambda) { return keeps_budget(lambda, 1.0); }),
                   1.0);
    } else {
      take_highest(input.drop_rate, kept_cost, branches, rates);
    }
    return rates;
  }

  bool operator==(const OptimalAllocation&) const = default;  ///< equal parameters

 private:
  struct Branch {
    double cost;   // scaled
    double ratio;  // f / S, scaled
    double min_rate, max_rate;
    bool free;  // has a cost and sensitivity 0: dropping it costs nothing
  };

  double rate(const Branch& branch, double lambda, double even_rate) const {
    const double wanted =
        branch.free ? even_rate
        : branch.ratio == 0.0 || lambda == 0.0
            ? 0.0
            : detail::rounded(objective.rate_at(detail::rounded(lambda * branch.ratio)));
    return wanted >= branch.max_rate  ? branch.max_rate
           : wanted > branch.min_rate ? wanted
                                      : branch.min_rate;
  }

  std::vector<Branch> prepare(const AllocationInput& input, int shift) const {
    const std::size_t size = input.costs.size();
    require_bounds(min_rates, size, "min_rates");
    require_bounds(max_rates, size, "max_rates");
    const int sensitivity_shift = -detail::largest_exponent(input.sensitivities);
    double most_cost = 0.0, most_sensitivity = 0.0;
    for (std::size_t i = 0; i < size; ++i) {
      const double cost = detail::times_power_of_two(input.costs[i], shift);
      const double sensitivity =
          detail::times_power_of_two(input.sensitivities[i], sensitivity_shift);
      if (cost > most_cost) most_cost = cost;
      if (sensitivity > most_sensitivity) most_sensitivity = sensitivity;
    }
    std::vector<Branch> branches(size);
    for (std::size_t i = 0; i < size; ++i) {
      Branch& branch = branches[i];
      branch.min_rate = bound(min_rates, i, 0.0);
      branch.max_rate = bound(max_rates, i, 1.0);
      if (branch.min_rate > branch.max_rate)
        detail::throw_invalid("OptimalAllocation's min_rates must not exceed its max_rates",
                              "those of branch " + detail::text(i) + " are " +
                                  detail::text(branch.min_rate) + " and " +
                                  detail::text(branch.max_rate),
                              "pass bounds with a rate between them");
      branch.cost = detail::times_power_of_two(input.costs[i], shift);
      const double cost = share(branch.cost, most_cost);
      const double sensitivity = share(
          detail::times_power_of_two(input.sensitivities[i], sensitivity_shift), most_sensitivity);
      branch.free = cost > 0.0 && sensitivity == 0.0;
      branch.ratio = cost == 0.0 || branch.free ? 0.0 : detail::rounded(cost / sensitivity);
    }
    return branches;
  }

  // value / largest; 0, in every build, if the quotient is not a normal double.
  static double share(double value, double largest) {
    if (!(largest > 0.0)) return 0.0;
    // rounded() hides from the compiler that the divisor stays the same: -ffast-math would multiply
    // by its reciprocal.
    const double share = detail::rounded(value / detail::rounded(largest));
    return share < detail::smallest_normal_double ? 0.0 : share;
  }

  // Sets every rate to its upper bound. The budget and `kept` are sums of rounded products: for a
  // target that is exactly the largest feasible one, `kept` may exceed the budget by a rounding
  // error.
  static void take_highest(double drop_rate, double kept_cost, const std::vector<Branch>& branches,
                           std::vector<double>& rates) {
    double total = 0.0, kept = 0.0;
    for (std::size_t i = 0; i < rates.size(); ++i) {
      const Branch& branch = branches[i];
      rates[i] = branch.cost > 0.0 ? branch.max_rate : branch.min_rate;
      total = detail::rounded(total + branch.cost);
      kept = detail::rounded(kept + detail::rounded(branch.cost * (1.0 - rates[i])));
    }
    if (kept > detail::rounded(kept_cost + detail::rounded(1e-9 * total)))
      detail::throw_invalid(
          "with these max_rates OptimalAllocation reaches a target rate of at most " +
              detail::text(1.0 - kept / total),
          "the target rate is " + detail::text(drop_rate), "lower the target or raise max_rates");
  }

  static void require_bounds(const std::vector<double>& bounds, std::size_t size,
                             const char* name) {
    if (bounds.size() > 1 && bounds.size() != size)
      detail::throw_invalid(std::string("OptimalAllocation's ") + name + " must be one a branch (" +
                                detail::text(size) + "), one for all, or none",
                            detail::text(bounds.size()) + " were given",
                            "pass them in the order in which the model visits its layers");
    for (const double bound : bounds)
      detail::require_rate(bound, std::string("a rate in OptimalAllocation's ") + name);
  }

  static double bound(const std::vector<double>& bounds, std::size_t branch, double otherwise) {
    return bounds.empty() ? otherwise : bounds.size() == 1 ? bounds.front() : bounds[branch];
  }

  // The smallest double in (0, high] for which `enough` is true, given that it is true for `high`
  // and false for 0. Positive doubles are ordered like their bits.
  template <class Enough>
  static double smallest(double high, Enough enough) {
    std::uint64_t below = 0, above = std::bit_cast<std::uint64_t>(high);
    while (above - below > 1) {
      const std::uint64_t middle = below + (above - below) / 2;
      (enough(std::bit_cast<double>(middle)) ? above : below) = middle;
    }
    return std::bit_cast<double>(above);
  }
};

DROPBP_NAMESPACE_END
