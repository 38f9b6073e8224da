// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Sampling for pipelines: in every draw all stages keep alike.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "dropbp/base/error.hpp"
#include "dropbp/base/view.hpp"
#include "dropbp/policy/fixed_budget_sampling.hpp"

DROPBP_NAMESPACE_BEGIN

/// Drops each branch exactly at its rate. In every draw each group keeps its expected number of
/// branches, rounded down or up, and one random number decides the direction for all groups: with
/// equal expectations all groups keep equally many. Of all draws with these rates it has the least
/// mean of the largest count, and so the least waiting where each group is a stage of a pipeline,
/// which is as slow as its slowest stage. (FixedBudgetSampling bounds the sum of all groups: there
/// one group rounds up because another one rounds down.)
///
/// DropOptions::groups has the stage of each branch. If the branches of a stage differ in cost,
/// give each kind its own group: 2 * stage for attention and 2 * stage + 1 for MLP.
struct PerStageBudgetSampling {
  /// What draw() needs, computed from the rates.
  using Prepared = FixedBudgetSampling::Prepared;

  /// See Sampling.
  DROPBP_LAZY
  Prepared prepare(const SamplingInput& input) const {
    Prepared prepared = FixedBudgetSampling{}.prepare(input);
    prepared.max_kept_weight = 0.0;
    for (const std::size_t most : prepared.max_kept)
      prepared.max_kept_weight += static_cast<double>(most);
    return prepared;
  }

  /// See Sampling. `order` is working space, one word per branch.
  DROPBP_LAZY
  void draw(const Prepared& prepared, const CounterRandom& random, std::span<std::uint8_t> dropped,
            std::span<std::uint32_t> order) const {
    for (std::size_t i = 0; i < dropped.size(); ++i) dropped[i] = prepared.dropped[i];
    const auto undecided = detail::view(prepared.undecided);
    const double direction = detail::unit_random(random, 2 * undecided.size() + 1);
    for (std::size_t begin = 0, end = 0; begin < undecided.size(); begin = end) {
      end = detail::end_of_group(undecided, begin);
      detail::Pivot last = detail::pivot_of_group(undecided, begin, end, random, dropped, order);
      if (last.open) last.decide(direction < last.keep, dropped);
    }
  }

  /// The most branches of a group that a draw keeps; 0 for a group that does not exist.
  std::size_t max_kept(const Prepared& prepared, std::uint32_t group) const {
    return FixedBudgetSampling{}.max_kept(prepared, group);
  }
  /// The most branches that a draw keeps.
  double max_kept_weight(const Prepared& prepared) const { return prepared.max_kept_weight; }

  bool operator==(const PerStageBudgetSampling&) const = default;  ///< equal parameters
};

DROPBP_NAMESPACE_END
