// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Sampling for pipelines: the joint law of all branches, equal counts in all stages, and how long a
// pipeline waits for its slowest stage.
#include "dropbp/policy/per_stage_budget_sampling.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <tuple>
#include <vector>

#include "dropbp/schedule.hpp"
#include "support/catch.hpp"
#include "support/plans.hpp"
#include "support/statistics.hpp"

using dropbp::DropPlan;
using dropbp::DropSchedule;
using dropbp::FixedBudgetSampling;
using dropbp::PerStageBudgetSampling;
using dropbp_test::kept_mask;

static_assert(dropbp::Sampling<PerStageBudgetSampling>);

namespace {

using Groups = std::vector<std::uint32_t>;

template <class Sampling>
DropSchedule<Sampling> schedule_of(const std::vector<double>& rates, const Groups& groups,
                                   std::uint64_t seed) {
  DropSchedule<Sampling> schedule(std::vector<double>(rates.size(), 1.0),
                                  {.seed = seed, .groups = groups});
  schedule.set_drop_rates(rates);
  return schedule;
}

// What the pivotal method leaves of a group: the branches that it keeps, and one that is undecided
// with its keep probability (0: none is).
struct Outcome {
  std::uint32_t met = 0, kept = 0, open = 0;
  double keep = 0.0;
  bool operator<(const Outcome& other) const {
    return std::tie(met, kept, open, keep) <
           std::tie(other.met, other.kept, other.open, other.keep);
  }
};
using Law = std::map<Outcome, double>;

// Branch `bit` with keep probability b meets the undecided one with a. If a + b < 1, one of them is
// dropped and the other has a + b; otherwise one is kept and the other has a + b - 1.
void meet(Outcome now, std::uint32_t bit, double b, double probability, Law& next) {
  const double a = now.keep;
  const auto add = [&](std::uint32_t kept, std::uint32_t open, double keep, double p) {
    keep = std::round(keep * 1e10) / 1e10;  // equal values from different orders are one outcome
    if (keep == 1.0) kept |= open;
    if (keep == 0.0 || keep == 1.0) open = 0, keep = 0.0;
    if (p > 0.0) next[{now.met | bit, now.kept | kept, open, keep}] += p * probability;
  };
  if (a == 0.0 || b == 0.0 || b == 1.0) {
    if (b == 0.0 || b == 1.0) return add(b == 1.0 ? bit : 0, now.open, a, 1.0);
    return add(0, bit, b, 1.0);
  }
  if (a + b < 1.0) {
    add(0, now.open, a + b, a / (a + b));
    add(0, bit, a + b, b / (a + b));
  } else {
    add(now.open, bit, a + b - 1.0, (1.0 - b) / (2.0 - a - b));
    add(bit, now.open, a + b - 1.0, (1.0 - a) / (2.0 - a - b));
  }
}

Law law_of_group(const std::vector<double>& rates, const Groups& groups, std::uint32_t group) {
  std::vector<std::size_t> members;
  for (std::size_t i = 0; i < rates.size(); ++i)
    if (groups[i] == group) members.push_back(i);
  Law law{{Outcome{}, 1.0}};
  for (std::size_t met = 0; met < members.size(); ++met) {
    Law next;
    for (const auto& [outcome, probability] : law)
      for (const std::size_t i : members)
        if ((outcome.met >> i & 1u) == 0)
          meet(outcome, 1u << i, 1.0 - rates[i],
               probability / static_cast<double>(members.size() - met), next);
    law = std::move(next);
  }
  return law;
}

// The probability of each set of kept branches: one uniform number decides all groups' undecided
// branches, so that those above it are kept.
std::map<std::uint32_t, double> law_of(const std::vector<double>& rates, const Groups& groups) {
  struct Joint {
    double probability = 1.0;
    std::uint32_t kept = 0;
    std::vector<std::pair<double, std::uint32_t>> open;
  };
  std::vector<Joint> all{Joint{}};
  for (std::uint32_t group = 0; group <= *std::max_element(groups.begin(), groups.end()); ++group) {
    std::vector<Joint> next;
    for (const Joint& joint : all)
      for (const auto& [outcome, probability] : law_of_group(rates, groups, group)) {
        next.push_back(joint);
        next.back().probability *= probability;
        next.back().kept |= outcome.kept;
        if (outcome.open != 0) next.back().open.emplace_back(outcome.keep, outcome.open);
      }
    all = std::move(next);
  }
  std::map<std::uint32_t, double> law;
  for (Joint& joint : all) {
    std::sort(joint.open.rbegin(), joint.open.rend());
    std::uint32_t kept = joint.kept;
    double above = 1.0;
    for (const auto& [keep, branch] : joint.open) {
      law[kept] += joint.probability * (above - keep);
      kept |= branch;
      above = keep;
    }
    law[kept] += joint.probability * above;
  }
  return law;
}

void check_law(const std::vector<double>& rates, const Groups& groups, std::uint64_t seed) {
  const auto law = law_of(rates, groups);
  std::vector<double> marginals(rates.size());
  for (const auto& [mask, probability] : law)
    for (std::size_t i = 0; i < rates.size(); ++i) marginals[i] += (mask >> i & 1u) * probability;
  for (std::size_t i = 0; i < rates.size(); ++i)
    CHECK(std::abs(marginals[i] - (1.0 - rates[i])) < 1e-8);

  const auto schedule = schedule_of<PerStageBudgetSampling>(rates, groups, seed);
  std::map<std::uint32_t, std::uint64_t> seen;
  const std::uint64_t draws = 1'000'000;
  DropPlan plan;
  for (std::uint64_t step = 0; step < draws; ++step) {
    schedule.draw(step, 0, plan);
    ++seen[kept_mask(plan)];
  }
  for (const auto& [mask, probability] : law) {
    CAPTURE(seed, mask, probability, seen[mask]);
    CHECK(dropbp_test::frequency_is_plausible(seen[mask], draws, std::min(probability, 1.0), 1e5));
  }
  for (const auto& [mask, count] : seen) CHECK(law.contains(mask));
}

std::vector<std::size_t> counts_of(const DropPlan& plan, const Groups& groups, std::size_t stages) {
  std::vector<std::size_t> counts(stages);
  for (std::size_t i = 0; i < plan.size(); ++i) counts[groups[i]] += plan.kept(i);
  return counts;
}

template <class Sampling>
double mean_of_largest(const std::vector<double>& rates, const Groups& groups, std::size_t stages) {
  const auto schedule = schedule_of<Sampling>(rates, groups, 5);
  std::size_t sum = 0;
  for (std::uint64_t step = 0; step < 20'000; ++step) {
    const auto counts = counts_of(schedule.plan(step), groups, stages);
    sum += *std::max_element(counts.begin(), counts.end());
  }
  return static_cast<double>(sum) / 20'000;
}

}  // namespace

TEST_CASE("The sets that stages keep together have the exact law of one shared rounding") {
  check_law({0.5, 0.25, 0.7, 0.9, 0.5, 0.6, 0.1, 0.35}, {0, 0, 0, 0, 1, 1, 1, 1}, 1);
  check_law({0.3, 0.3, 0.3, 0.6, 0.6, 0.6, 0.8, 0.8, 0.8}, {2, 0, 1, 2, 0, 1, 2, 0, 1}, 2);
  check_law({0.5, 1.0, 0.0, 0.75, 0.25, 0.4, 1.0}, {0, 0, 0, 1, 1, 2, 3}, 3);
}

TEST_CASE("Stages with equal expectations keep equally many branches in every draw") {
  const std::size_t stages = 4, each = 8;
  for (const double rate : {0.1, 0.45, 0.5, 0.8, 0.9}) {
    Groups groups;
    for (std::size_t i = 0; i < stages * each; ++i)
      groups.push_back(static_cast<std::uint32_t>(i / each));
    const auto schedule =
        schedule_of<PerStageBudgetSampling>(std::vector<double>(groups.size(), rate), groups, 9);
    const double expected = (1.0 - rate) * each;
    const auto most = static_cast<std::size_t>(std::ceil(expected - 1e-9));
    std::size_t reached = 0;
    for (std::uint64_t step = 0; step < 2000; ++step) {
      const auto counts = counts_of(schedule.plan(step), groups, stages);
      for (const std::size_t count : counts) {
        REQUIRE(count == counts[0]);
        REQUIRE(std::abs(static_cast<double>(count) - expected) < 1.0 - 1e-9);
      }
      reached += counts[0] == most;
    }
    CHECK(reached > 0);
    for (std::uint32_t stage = 0; stage < stages; ++stage) CHECK(schedule.max_kept(stage) == most);
    CHECK(schedule.max_kept_weight() == static_cast<double>(stages * most));
  }
}

TEST_CASE("The mean of the largest count is the largest expectation, the least possible") {
  // Expectations 4.4, 4.4, 3.9 and 4.4 of 8 branches.
  Groups groups;
  std::vector<double> rates;
  for (std::uint32_t i = 0; i < 32; ++i) {
    groups.push_back(i / 8);
    rates.push_back(i / 8 == 2 ? 1.0 - 3.9 / 8.0 : 0.45);
  }
  const double own = mean_of_largest<PerStageBudgetSampling>(rates, groups, 4);
  CHECK(std::abs(own - 4.4) < 0.02);  // 6 standard deviations
  CHECK(mean_of_largest<FixedBudgetSampling>(rates, groups, 4) > 4.9);
  CHECK(mean_of_largest<dropbp::BernoulliSampling>(rates, groups, 4) > 5.3);
}
