// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Sampling with an upper bound on the kept branches in every draw.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "dropbp/base/error.hpp"
#include "dropbp/base/view.hpp"
#include "dropbp/policy/pivot.hpp"
#include "dropbp/policy/sampling.hpp"

DROPBP_NAMESPACE_BEGIN

/// The weight of a branch, whose sum over the kept branches is bounded.
enum class BranchWeight : std::uint8_t {
  count,  ///< every branch weighs 1
  cost,   ///< its cost
  bytes   ///< the bytes that it saves for its backward pass: FixedBudgetSampling::bytes
};

/// Drops each branch exactly at its rate. In every draw the total weight of the kept branches
/// differs from its expectation by at most one branch; with weight `count`, it is the expectation
/// rounded down or up. This holds for each group and for all branches together. Method: the pivotal
/// method (Deville, Tillé: "Unequal probability sampling without replacement through a splitting
/// method", Biometrika 85, 1998) over a random order. Two undecided branches meet: one gains
/// keep probability and the other loses it, so that the expected weight is unchanged, until one of
/// them is decided. The odds of the direction keep both rates exact. The last undecided branch is
/// decided alone. Less than 1e-9 of a branch counts as a rounding error.
struct FixedBudgetSampling {
  /// Stands for no cap. Not infinity, because clang++ rejects infinity with -ffast-math.
  static constexpr double no_limit = detail::largest_double;

  BranchWeight weigh = BranchWeight::count;  ///< weight of a branch
  std::vector<double> bytes = {};            ///< one per branch, if `weigh` is bytes
  /// Upper bound on the total weight of the kept branches, in the unit of the weight. If the rates
  /// allow more, limit() raises them: it multiplies all keep probabilities by one factor. The
  /// default is no cap.
  double cap = no_limit;

  /// What draw() needs, computed from the rates.
  struct Prepared {
    std::vector<detail::UndecidedBranch> undecided;  ///< sorted by group
    std::vector<std::uint8_t> dropped;               ///< one per branch; 1 if it is always dropped
    std::vector<std::size_t> max_kept;               ///< by group: most branches that a draw keeps
    double max_kept_weight = 0.0;                    ///< largest total weight that a draw keeps
  };

  /// See Sampling. Throws std::invalid_argument if `bytes` has the wrong size, an element that is
  /// not positive or no finite sum, and if the cap is not positive.
  DROPBP_LAZY
  Prepared prepare(const SamplingInput& input) const {
    require_weights(input);
    const int shift = shift_of(input);
    std::size_t groups = 1;
    for (const std::uint32_t group : input.groups)
      if (group >= groups) groups = std::size_t{group} + 1;
    Prepared prepared;
    prepared.dropped.resize(input.rates.size());
    prepared.max_kept.resize(groups);
    Bound all;
    double of_groups = 0.0;
    for (std::uint32_t group = 0; group < groups; ++group) {
      Bound one;
      std::vector<double> weights;
      for (std::size_t i = 0; i < input.rates.size(); ++i) {
        if ((input.groups.empty() ? 0 : input.groups[i]) != group) continue;
        const double keep = detail::rounded(1.0 - input.rates[i]), heavy = weight(input, i, shift);
        prepared.dropped[i] = keep == 0.0;
        if (keep == 0.0) continue;
        one.add(keep, heavy);
        all.add(keep, heavy);
        weights.push_back(heavy);
        if (keep < 1.0)
          prepared.undecided.push_back({static_cast<std::uint32_t>(i), group, keep, heavy});
      }
      prepared.max_kept[group] = most_within(detail::view(weights), one.most());
      of_groups += one.most();
    }
    prepared.max_kept_weight =
        detail::times_power_of_two(all.most() < of_groups ? all.most() : of_groups, -shift);
    return prepared;
  }

  /// See Sampling. `order` is working space, one word per branch.
  DROPBP_LAZY
  void draw(const Prepared& prepared, const CounterRandom& random, std::span<std::uint8_t> dropped,
            std::span<std::uint32_t> order) const {
    for (std::size_t i = 0; i < dropped.size(); ++i) dropped[i] = prepared.dropped[i];
    const auto undecided = detail::view(prepared.undecided);
    detail::Pivot carried;  // the branch that earlier groups left undecided
    for (std::size_t begin = 0, end = 0; begin < undecided.size(); begin = end) {
      end = detail::end_of_group(undecided, begin);
      detail::Pivot pivot = detail::pivot_of_group(undecided, begin, end, random, dropped, order);
      carried.meet(pivot, detail::unit_random(random, 2 * begin + 1), dropped);
      carried.settle(dropped);
    }
    if (carried.open)
      carried.decide(detail::unit_random(random, 2 * undecided.size() + 1) < carried.keep, dropped);
  }

  /// The most branches of a group that a draw keeps; 0 for a group that does not exist.
  DROPBP_LAZY
  std::size_t max_kept(const Prepared& prepared, std::uint32_t group) const {
    return group < prepared.max_kept.size() ? prepared.max_kept[group] : 0;
  }
  /// The largest total weight that a draw keeps.
  double max_kept_weight(const Prepared& prepared) const { return prepared.max_kept_weight; }

  /// See Sampling. Throws std::invalid_argument unless the cap exceeds the heaviest branch's weight
  /// (or equals it, if all weights are equal).
  DROPBP_LAZY
  void limit(std::span<double> rates, const SamplingInput& input) const {
    require_weights(input);
    if (cap >= no_limit) return;
    const int shift = shift_of(input);
    const double most = detail::times_power_of_two(cap, shift);
    Bound now, scaled;
    for (std::size_t i = 0; i < rates.size(); ++i) {
      const double keep = detail::rounded(1.0 - rates[i]);
      if (keep == 0.0) continue;
      now.add(keep, weight(input, i, shift));
      scaled.add_undecided(keep, weight(input, i, shift));
    }
    if (now.most() <= with_rounding(most, scaled.lightest)) return;
    const double allowed =
        scaled.lightest == scaled.heaviest
            ? scaled.heaviest *
                  detail::floor(detail::rounded(most / detail::rounded(scaled.heaviest)) + rounding)
            : detail::rounded(most - scaled.heaviest) * (1.0 - 1e-12);
    if (!(allowed > 0.0))
      detail::throw_invalid(
          "FixedBudgetSampling's cap must hold more than the heaviest branch, which weighs " +
              detail::text(detail::times_power_of_two(scaled.heaviest, -shift)),
          "it is " + detail::text(cap), "raise it, or save less in every branch");
    const double factor = detail::rounded(detail::rounded(allowed) / scaled.expected);
    for (double& rate : rates)
      rate = detail::rounded(1.0 - detail::rounded(factor * detail::rounded(1.0 - rate)));
  }

  bool operator==(const FixedBudgetSampling&) const = default;  ///< equal parameters

 private:
  static constexpr double rounding = detail::branch_rounding;

  static constexpr double lightest_weight = 0x1p-500;  // lower limit, relative to the heaviest

  static double with_rounding(double most, double lightest) {
    return detail::rounded(most + detail::rounded(rounding * lightest));
  }

  // Computes the largest total weight that draws of a set of branches keep.
  struct Bound {
    double certain = 0.0, expected = 0.0, total = 0.0;
    double lightest = no_limit, heaviest = 0.0;

    void add(double keep, double weight) {
      if (keep == 1.0)
        certain = detail::rounded(certain + weight);
      else
        add_undecided(keep, weight);
    }
    void add_undecided(double keep, double weight) {
      expected = detail::rounded(expected + detail::rounded(keep * weight));
      total = detail::rounded(total + weight);
      if (weight < lightest) lightest = weight;
      if (weight > heaviest) heaviest = weight;
    }
    double most() const {
      if (heaviest == 0.0) return certain;
      if (lightest == heaviest) {
        const double count = detail::rounded(expected / detail::rounded(heaviest));
        const double whole = detail::floor(count + rounding);
        return detail::rounded(
            certain + detail::rounded(heaviest * (count > whole + rounding ? whole + 1.0 : whole)));
      }
      const double above = detail::rounded(expected + heaviest);
      return detail::rounded(certain + (above < total ? above : total));
    }
  };

  // The exponent of the power of two that scales the heaviest weight to [1, 2). Sums of weights and
  // their products with probabilities then stay within the range of a double, for any unit.
  DROPBP_LAZY
  int shift_of(const SamplingInput& input) const {
    return weigh == BranchWeight::count  ? 0
           : weigh == BranchWeight::cost ? -detail::largest_exponent(input.costs)
                                         : -detail::largest_exponent(bytes);
  }

  DROPBP_LAZY
  double weight(const SamplingInput& input, std::size_t branch, int shift) const {
    if (weigh == BranchWeight::count) return 1.0;
    const double weight = detail::times_power_of_two(
        weigh == BranchWeight::cost ? input.costs[branch] : bytes[branch], shift);
    return weight < lightest_weight ? lightest_weight : weight;
  }

  DROPBP_LAZY
  void require_weights(const SamplingInput& input) const {
    if (detail::is_nan(cap) || cap <= 0.0)
      detail::throw_invalid("FixedBudgetSampling's cap must be positive",
                            "it is " + detail::text(cap), "leave it out for none");
    if (weigh != BranchWeight::bytes) return;
    detail::require_count(bytes.size(), input.rates.size(), "entry of FixedBudgetSampling::bytes");
    double sum = 0.0;
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      if (!detail::is_finite(bytes[i]) || bytes[i] <= 0.0)
        detail::throw_invalid(
            "the bytes that a branch saves must be positive and finite",
            "those of branch " + detail::text(i) + " are " + detail::text(bytes[i]),
            "pass what it keeps between its forward and backward pass");
      sum = detail::rounded(sum + bytes[i]);
    }
    if (!detail::is_finite(sum))
      detail::throw_invalid("the bytes that all branches save must have a finite sum",
                            "it overflows a double", "pass them in a larger unit");
  }

  // How many of the lightest branches fit into `most`.
  DROPBP_LAZY
  static std::size_t most_within(std::span<const double> weights, double most) {
    const std::vector<std::uint32_t> order = detail::descending(weights);
    double sum = 0.0;
    for (std::size_t count = 0; count < order.size(); ++count) {
      const double lightest = weights[order[order.size() - 1 - count]];
      sum = detail::rounded(sum + lightest);
      if (sum > with_rounding(most, lightest)) return count;
    }
    return order.size();
  }
};

DROPBP_NAMESPACE_END
