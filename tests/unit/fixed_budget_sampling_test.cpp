// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Sampling with a fixed budget: which branches a plan keeps, how often, and in which combinations,
// compared with the exact law of the method.
#include "dropbp/policy/fixed_budget_sampling.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <numeric>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "dropbp/policy/allocation.hpp"
#include "dropbp/policy/optimal_allocation.hpp"
#include "dropbp/schedule.hpp"
#include "support/catch.hpp"
#include "support/plans.hpp"
#include "support/statistics.hpp"
#include "support/throws.hpp"

using dropbp::BranchWeight;
using dropbp::DropPlan;
using dropbp::DropSchedule;
using dropbp::FixedBudgetSampling;
using dropbp_test::kept_mask;

static_assert(dropbp::Sampling<FixedBudgetSampling>);

namespace {

using Schedule = DropSchedule<FixedBudgetSampling>;

struct Instance {
  std::vector<double> rates;
  std::vector<double> weights;  // empty: 1 each
  std::vector<std::uint32_t> groups;

  std::size_t size() const { return rates.size(); }
  double weight(std::size_t i) const { return weights.empty() ? 1.0 : weights[i]; }
  std::uint32_t group(std::size_t i) const { return groups.empty() ? 0 : groups[i]; }

  Schedule schedule(std::uint64_t seed) const {
    FixedBudgetSampling sampling;
    if (!weights.empty()) sampling = {.weigh = BranchWeight::bytes, .bytes = weights};
    Schedule schedule(std::vector<double>(size(), 1.0), {.seed = seed, .groups = groups}, sampling);
    schedule.set_drop_rates(rates);
    return schedule;
  }
};

// The probability of each set of kept branches: the pivotal method over a uniformly random order,
// one group after the other. The state needs no more than the kept branches, because the method
// conserves weight.
class Law {
 public:
  explicit Law(const Instance& instance) : instance_(instance) {
    std::map<State, double> states{{State{}, 1.0}};
    const std::uint32_t last = *std::max_element(instance.groups.begin(), instance.groups.end());
    for (std::uint32_t group = 0; group <= last; ++group) {
      std::uint32_t members = 0;
      for (std::size_t i = 0; i < instance.size(); ++i)
        members |= std::uint32_t{instance.group(i) == group} << i;
      for (int met = 0; met < std::popcount(members); ++met) {
        std::map<State, double> next;
        for (const auto& [state, probability] : states) {
          const std::uint32_t left = members & ~state.met;
          for (std::size_t i = 0; i < instance.size(); ++i) {
            if (((left >> i) & 1u) == 0) continue;
            State now = state;
            now.met |= 1u << i;
            meet(now, now.pivot, now.keep, static_cast<int>(i), 1.0 - instance.rates[i],
                 probability / std::popcount(left),
                 [&](const State& result, double p) { next[result] += p; });
          }
        }
        states = std::move(next);
      }
      // The group's pivot meets the pivot of the earlier groups.
      std::map<State, double> next;
      for (const auto& [state, probability] : states) {
        State now = state;
        const int pivot = now.pivot;
        const double keep = now.keep;
        now.pivot = -1;
        now.keep = 0.0;
        meet(now, now.carried, now.carried_keep, pivot, keep, probability,
             [&](State result, double p) {
               result.carried = result.pivot;
               result.carried_keep = result.keep;
               result.pivot = -1;
               result.keep = 0.0;
               next[result] += p;
             });
      }
      states = std::move(next);
    }
    for (const auto& [state, probability] : states) {
      if (state.carried < 0) {
        law_[state.kept] += probability;
      } else {
        law_[state.kept | (1u << state.carried)] += probability * state.carried_keep;
        law_[state.kept] += probability * (1.0 - state.carried_keep);
      }
    }
  }

  const std::map<std::uint32_t, double>& operator()() const { return law_; }

 private:
  struct State {
    std::uint32_t met = 0, kept = 0;
    int pivot = -1, carried = -1;
    double keep = 0.0,
           carried_keep = 0.0;  // rounded, so that equal values from different orders are one state
    bool operator<(const State& other) const {
      return std::tie(met, kept, pivot, carried, keep, carried_keep) <
             std::tie(other.met, other.kept, other.pivot, other.carried, other.keep,
                      other.carried_keep);
    }
  };

  // Lets branch a and branch b meet (-1: none), and calls `emit` with the resulting states. At most
  // one branch stays undecided.
  template <class Emit>
  void meet(State state, int a, double keep_a, int b, double keep_b, double probability,
            Emit emit) const {
    const auto settle = [&](State& to, int branch, double keep) {
      if (branch < 0) return false;
      keep = std::round(keep * 1e10) / 1e10;
      if (keep == 1.0) to.kept |= 1u << branch;
      if (keep == 0.0 || keep == 1.0) return false;
      to.pivot = branch;
      to.keep = keep;
      return true;
    };
    const auto finish = [&](double final_a, double final_b, double p) {
      if (p <= 0.0) return;
      State to = state;
      to.pivot = -1;
      to.keep = 0.0;
      settle(to, a, final_a);
      settle(to, b, final_b);
      emit(to, p);
    };
    const bool open_a = a >= 0 && keep_a > 0.0 && keep_a < 1.0,
               open_b = b >= 0 && keep_b > 0.0 && keep_b < 1.0;
    if (!open_a || !open_b) return finish(keep_a, keep_b, probability);
    const double wa = instance_.weight(static_cast<std::size_t>(a)),
                 wb = instance_.weight(static_cast<std::size_t>(b));
    const double to_a = std::min((1.0 - keep_a) * wa, keep_b * wb),
                 to_b = std::min(keep_a * wa, (1.0 - keep_b) * wb);
    finish(keep_a + to_a / wa, keep_b - to_a / wb, probability * to_b / (to_a + to_b));
    finish(keep_a - to_b / wa, keep_b + to_b / wb, probability * to_a / (to_a + to_b));
  }

  const Instance& instance_;
  std::map<std::uint32_t, double> law_;
};

void check_law(const Instance& instance, std::uint64_t draws, std::uint64_t seed) {
  const auto law = Law(instance)();
  double sum = 0.0;
  std::vector<double> marginals(instance.size());
  for (const auto& [mask, probability] : law) {
    sum += probability;
    for (std::size_t i = 0; i < instance.size(); ++i)
      marginals[i] += (mask >> i & 1u) * probability;
  }
  CHECK(std::abs(sum - 1.0) < 1e-8);
  for (std::size_t i = 0; i < instance.size(); ++i)
    CHECK(std::abs(marginals[i] - (1.0 - instance.rates[i])) < 1e-7);

  const Schedule schedule = instance.schedule(seed);
  std::map<std::uint32_t, std::uint64_t> seen;
  DropPlan plan;
  for (std::uint64_t step = 0; step < draws; ++step) {
    schedule.draw(step, 0, plan);
    ++seen[kept_mask(plan)];
  }
  double chi_squared = 0.0, rare_expected = 0.0, rare_seen = 0.0;
  int freedom = -1;
  for (const auto& [mask, probability] : law) {
    const double expected = probability * static_cast<double>(draws),
                 count = static_cast<double>(seen[mask]);
    if (expected < 10.0) {
      rare_expected += expected;
      rare_seen += count;
      continue;
    }
    chi_squared += (count - expected) * (count - expected) / expected;
    ++freedom;
  }
  for (const auto& [mask, count] : seen)
    if (!law.contains(mask)) rare_seen += static_cast<double>(count), rare_expected += 0.0;
  if (rare_expected > 1.0)
    chi_squared += (rare_seen - rare_expected) * (rare_seen - rare_expected) / rare_expected,
        ++freedom;
  else
    CHECK(rare_seen <= 10.0 * rare_expected + 3.0);
  INFO("chi squared " << chi_squared << " with " << freedom << " degrees of freedom, " << law.size()
                      << " sets");
  CHECK(chi_squared < freedom + 5.0 * std::sqrt(2.0 * freedom) + 10.0);
}

// Random numbers in [0, 1) that do not use the library's generator.
class Numbers {
 public:
  explicit Numbers(std::uint64_t seed) : state_(seed) {}
  double operator()() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<double>(state_ >> 11) * 0x1p-53;
  }

 private:
  std::uint64_t state_;
};

}  // namespace

TEST_CASE(
    "The sets that twelve branches keep have the law of the pivotal method over a random order") {
  check_law({.rates = {0.5, 0.9, 0.1, 0.75, 0.5, 0.3, 0.875, 0.6, 0.2, 0.5, 0.99, 0.4},
             .weights = {},
             .groups = std::vector<std::uint32_t>(12, 0)},
            1'000'000, 1);
}

TEST_CASE("With groups and unequal weights the kept sets have the law of the pivotal method") {
  check_law({.rates = {0.5, 0.25, 0.7, 0.9, 0.5, 0.5, 0.1, 0.35},
             .weights = {},
             .groups = {0, 1, 0, 1, 0, 1, 0, 1}},
            1'000'000, 2);
  check_law({.rates = {0.5, 0.25, 0.7, 0.9, 1.0, 0.5, 0.0, 0.35},
             .weights = {3.0, 1.0, 2.0, 0.5, 1.0, 7.0, 1.0, 1.5},
             .groups = {0, 0, 0, 0, 1, 1, 1, 1}},
            1'000'000, 3);
}

TEST_CASE("In ten million draws every branch is kept as often as its rate says") {
  const Instance instance{.rates = {0.1, 0.5, 0.9, 1e-3, 0.35, 1.0 - 1e-3},
                          .weights = {2.0, 1.0, 5.0, 1.0, 3.0, 1.0},
                          .groups = {0, 1, 1, 0, 1, 0}};
  const Schedule schedule = instance.schedule(4);
  const std::uint64_t n = 10'000'000;
  std::vector<std::uint64_t> dropped(instance.size());
  DropPlan plan;
  for (std::uint64_t step = 0; step < n; ++step) {
    schedule.draw(step, 0, plan);
    for (std::size_t i = 0; i < dropped.size(); ++i) dropped[i] += plan.dropped(i);
  }
  for (std::size_t i = 0; i < dropped.size(); ++i) {
    INFO("branch " << i << " dropped " << dropped[i] << " times");
    CHECK(dropbp_test::frequency_is_plausible(dropped[i], n, instance.rates[i], 64));
  }
}

TEST_CASE("No draw keeps more than its bound, or less than the expectation minus one branch") {
  Numbers random(5);
  std::size_t reached = 0, instances = 0;
  for (int number = 0; number < 300; ++number) {
    const std::size_t size = 1 + static_cast<std::size_t>(random() * 40.0);
    Instance instance;
    const bool even =
        number % 3 == 0;  // these rates sometimes have a whole number of branches as expectation
    for (std::size_t i = 0; i < size; ++i)
      instance.rates.push_back(even ? std::floor(random() * 11.0) / 10.0 : random());
    if (number % 2 == 1)
      for (std::size_t i = 0; i < size; ++i) instance.weights.push_back(std::exp(6.0 * random()));
    for (std::size_t i = 0; i < size; ++i)
      instance.groups.push_back(std::min(static_cast<std::uint32_t>(random() * 3.0),
                                         static_cast<std::uint32_t>(size - 1)));
    const Schedule schedule = instance.schedule(static_cast<std::uint64_t>(number));

    // For all branches (index 3) and each group: the expected weight, the heaviest branch, and the
    // bound of the kept weight.
    double expected[4] = {}, heaviest[4] = {};
    for (std::size_t i = 0; i < size; ++i)
      for (const std::uint32_t g : {instance.groups[i], 3u}) {
        expected[g] += (1.0 - instance.rates[i]) * instance.weight(i);
        heaviest[g] = std::max(heaviest[g], instance.weight(i));
      }
    for (std::uint64_t step = 0; step < 300; ++step) {
      const DropPlan plan = schedule.plan(step);
      double kept[4] = {};
      std::size_t count[4] = {};
      for (std::size_t i = 0; i < size; ++i) {
        if (plan.dropped(i)) continue;
        for (const std::uint32_t g : {instance.groups[i], 3u})
          kept[g] += instance.weight(i), ++count[g];
        REQUIRE(plan.slot(i) < schedule.max_kept(instance.groups[i]));
      }
      for (std::uint32_t g = 0; g < 4; ++g) {
        if (heaviest[g] == 0.0) continue;
        REQUIRE(std::abs(kept[g] - expected[g]) < heaviest[g]);
        if (instance.weights.empty()) {
          REQUIRE(kept[g] >= std::floor(expected[g] + 1e-9));
          REQUIRE(kept[g] <= std::ceil(expected[g] - 1e-9));
        }
      }
      REQUIRE(kept[3] <= schedule.max_kept_weight() * (1.0 + 1e-12));
      reached += kept[3] >= schedule.max_kept_weight() * (1.0 - 1e-12);
      ++instances;
    }
    for (std::uint32_t g = 0; g < 3; ++g) {
      if (heaviest[g] == 0.0 || !instance.weights.empty()) continue;
      CHECK(static_cast<double>(schedule.max_kept(g)) == std::ceil(expected[g] - 1e-9));
    }
  }
  CHECK(reached > instances / 8);  // the bound is tight
}

TEST_CASE("The draws of two groups are those of earlier releases") {
  Schedule schedule(std::vector<double>(10, 1.0),
                    {.seed = 3, .groups = {0, 0, 0, 0, 0, 1, 1, 1, 1, 1}});
  schedule.set_drop_rates(std::vector<double>{0.1, 0.5, 0.7, 0.3, 0.9, 0.25, 0.5, 0.6, 0.4, 0.5});
  std::vector<std::uint32_t> kept;
  for (std::uint64_t step = 0; step < 8; ++step) kept.push_back(kept_mask(schedule.plan(step)));
  CHECK(kept == std::vector<std::uint32_t>{0x0e9, 0x127, 0x1a9, 0x383, 0x16b, 0x2a3, 0x1a3, 0x14b});
}

TEST_CASE("A group that does not exist keeps no branch") {
  const std::vector<double> rates{0.5, 0.5}, costs{1.0, 1.0};
  const std::vector<std::uint32_t> groups{0, 1};
  const FixedBudgetSampling sampling;
  const auto prepared = sampling.prepare({.rates = rates, .costs = costs, .groups = groups});
  for (const std::uint32_t group : {0u, 1u}) CHECK(sampling.max_kept(prepared, group) == 1);
  for (const std::uint32_t group : {2u, 3u, ~0u}) CHECK(sampling.max_kept(prepared, group) == 0);
  CHECK(sampling.max_kept_weight({}) == 0.0);
}

TEST_CASE("The largest kept weight is at most that of all branches") {
  const auto largest = [](const std::vector<double>& rates, const std::vector<double>& costs) {
    const FixedBudgetSampling sampling{.weigh = BranchWeight::cost};
    return sampling.max_kept_weight(sampling.prepare({.rates = rates, .costs = costs}));
  };
  CHECK(largest({0.01, 0.01}, {1.0, 2.0}) == 3.0);
  // Of equal weights it is a whole number of branches.
  CHECK(largest({0.5, 0.5, 0.5}, {3.0, 3.0, 3.0}) == 6.0);
  CHECK(largest({0.0, 0.5, 0.5}, {4.0, 1.0, 1.0}) == 5.0);
}

TEST_CASE("A branch whose keep probability rounds to 1 is kept") {
  std::vector<std::uint8_t> dropped(2, 7);
  dropbp::detail::Pivot pivot{0, true, 0.5, 1.0};
  pivot.meet({1, true, std::nextafter(0.5, 0.0), 1.0}, 0.0, dropped);
  CHECK_FALSE(pivot.open);
  CHECK(dropped == std::vector<std::uint8_t>{0, 1});
  dropbp::detail::Pivot nearly{1, true, 1.0 - 1e-10, 1.0};
  nearly.settle(dropped);
  CHECK_FALSE(nearly.open);
  CHECK(dropped == std::vector<std::uint8_t>{0, 0});
}

TEST_CASE("prepare and limit refuse invalid weights without a schedule") {
  std::vector<double> rates{0.5, 0.5};
  const std::vector<double> costs{1.0, 1.0};
  const dropbp::SamplingInput input{.rates = rates, .costs = costs};
  for (const std::vector<double>& bytes :
       {std::vector<double>{1.0}, std::vector<double>{1.0, -1.0}}) {
    const FixedBudgetSampling sampling{.weigh = BranchWeight::bytes, .bytes = bytes, .cap = 8.0};
    CHECK_THROWS_AS(sampling.prepare(input), std::invalid_argument);
    CHECK_THROWS_AS(sampling.limit(rates, input), std::invalid_argument);
  }
}

TEST_CASE("draw sets a byte to 0 or 1, as the sampling concept says") {
  const std::vector<double> rates{0.5, 0.25, 0.75, 1.0}, costs{1.0, 2.0, 3.0, 4.0};
  const FixedBudgetSampling sampling{.weigh = BranchWeight::cost};
  const auto prepared = sampling.prepare({.rates = rates, .costs = costs});
  for (std::uint64_t step = 0; step < 100; ++step) {
    std::vector<std::uint8_t> dropped(4, 7);
    std::vector<std::uint32_t> order(4);
    sampling.draw(prepared, dropbp::CounterRandom(1, dropbp::RandomStream::user, step), dropped,
                  order);
    for (const std::uint8_t byte : dropped) REQUIRE(byte <= 1);
  }
}

TEST_CASE("A cap raises the rates until every plan fits, and not further") {
  const std::vector<double> bytes = {30.0, 10.0, 30.0, 10.0, 30.0, 10.0};
  const auto capped = [&](double cap) {
    return Schedule(std::vector<double>(6, 1.0), {.drop_rate = 0.5, .seed = 7},
                    {.weigh = BranchWeight::bytes, .bytes = bytes, .cap = cap});
  };
  CHECK(capped(90.0).drop_rates()[0] == 0.5);  // 60 expected, and at most one branch of 30 more
  const Schedule schedule = capped(60.0);
  CHECK(std::abs(schedule.drop_rates()[0] - 0.75) < 1e-9);
  CHECK(schedule.drop_rate() == 0.5);  // the requested rate, which the next allocation uses again
  CHECK(schedule.max_kept_weight() <= 60.0);
  double most = 0.0;
  for (std::uint64_t step = 0; step < 2000; ++step) {
    const DropPlan plan = schedule.plan(step);
    double kept = 0.0;
    for (std::size_t i = 0; i < 6; ++i) kept += plan.kept(i) ? bytes[i] : 0.0;
    most = std::max(most, kept);
  }
  CHECK(most <= 60.0);
  CHECK(most >= 50.0);

  SECTION("restored rates are not raised again") {
    Schedule restored = capped(60.0);
    restored.restore(7, dropbp::PlanPer::micro_step, 0.5, schedule.drop_rates());
    CHECK(restored.plan(3) == schedule.plan(3));
  }
  SECTION("after an allocation, which distributes the budget differently") {
    Schedule allocated = capped(60.0);
    allocated.allocate(std::vector<double>{5.0, 1.0, 5.0, 1.0, 5.0, 1.0},
                       dropbp::OptimalAllocation<>{});
    CHECK(allocated.max_kept_weight() <= 60.0);
    CHECK(allocated.drop_rates()[1] > allocated.drop_rates()[0]);
  }
  SECTION("in a warm-up, where lower rates would keep more") {
    const Schedule warming(std::vector<double>(6, 1.0),
                           {.drop_rate = 0.5, .seed = 7, .warmup_steps = 10},
                           {.weigh = BranchWeight::bytes, .bytes = bytes, .cap = 60.0});
    CHECK(std::abs(warming.drop_rates_at(0)[0] - 0.75) < 1e-9);
    CHECK(warming.max_kept_weight() <= 60.0);
  }
  SECTION("with hardly more room than for the heaviest branch") {
    const Schedule tight = capped(33.0);
    CHECK(tight.max_kept_weight() <= 33.0);
    CHECK(tight.drop_rates()[0] < 1.0);
  }
  SECTION("with a cap on the number of branches") {
    const Schedule three(std::vector<double>(10, 1.0), {.drop_rate = 0.3}, {.cap = 3.7});
    CHECK(std::abs(three.drop_rates()[0] - 0.7) < 1e-12);
    CHECK(three.max_kept() == 3);
    CHECK(three.max_kept_weight() == 3.0);
    const Schedule exactly(std::vector<double>(10, 1.0), {.drop_rate = 0.3}, {.cap = 3.0});
    CHECK(std::abs(exactly.drop_rates()[0] - 0.7) < 1e-12);
    CHECK(exactly.max_kept() == 3);
  }
}

TEST_CASE("A cap that the plans exceed only by rounding changes no rate") {
  const std::vector<double> bytes = {30.0, 10.0, 30.0, 10.0};
  const auto rate_with = [&](double cap) {
    return Schedule(std::vector<double>(4, 1.0), {.drop_rate = 0.5, .seed = 7},
                    {.weigh = BranchWeight::bytes, .bytes = bytes, .cap = cap})
        .drop_rates()[0];
  };
  // 40 expected and 30 more. A difference below 1e-9 of the lightest branch counts as rounding.
  CHECK(rate_with(70.0) == 0.5);
  CHECK(rate_with(70.0 - 5e-9) == 0.5);
  CHECK(rate_with(70.0 - 2e-8) > 0.5);
}

TEST_CASE("Rates and plans do not depend on the unit of the weights") {
  const std::vector<double> weights = {30.0, 10.0, 17.0, 11.0, 29.0, 10.0};
  for (const double unit : {0x1p-1000, 0x1p-500, 0x1p500, 0x1p1015})
    for (const bool by_bytes : {false, true})
      for (const double cap : {50.0, 80.0, 1e9}) {
        CAPTURE(unit, by_bytes, cap);
        const auto make = [&](double scale) {
          std::vector<double> scaled = weights;
          for (double& one : scaled) one *= scale;
          FixedBudgetSampling sampling{
              .weigh = by_bytes ? BranchWeight::bytes : BranchWeight::cost,
              .cap = cap < 1e9 ? cap * scale : FixedBudgetSampling::no_limit};
          if (by_bytes) sampling.bytes = scaled;
          return Schedule(by_bytes ? weights : scaled, {.drop_rate = 0.4, .seed = 7}, sampling);
        };
        const Schedule one = make(1.0), other = make(unit);
        CHECK(other.max_kept_weight() == one.max_kept_weight() * unit);
        CHECK(other.max_kept() == one.max_kept());
        std::size_t different = 0;
        for (std::uint64_t step = 0; step < 300; ++step)
          different += other.plan(step) != one.plan(step);  // decisions and rates
        CHECK(different == 0);
      }
  // A branch with almost no weight is kept as often as its rate says.
  const Schedule light({1.0, 1.0, 1.0}, {.drop_rate = 0.5, .seed = 7},
                       {.weigh = BranchWeight::bytes, .bytes = {1e300, 1e-300, 1e300}});
  int kept = 0;
  for (std::uint64_t step = 0; step < 10000; ++step) kept += light.plan(step).kept(1);
  CHECK(std::abs(kept - 5000) < 300);  // six standard deviations
}

TEST_CASE("Weights by FLOPs follow a change of the FLOPs") {
  Schedule schedule({4.0, 1.0, 4.0, 1.0}, {.drop_rate = 0.5}, {.weigh = BranchWeight::cost});
  CHECK(schedule.max_kept_weight() == 9.0);  // 5 expected, and at most 4 more
  schedule.set_costs(std::vector<double>{1.0, 1.0, 1.0, 1.0});
  CHECK(schedule.max_kept_weight() == 2.0);
  CHECK(schedule.max_kept() == 2);
}

TEST_CASE("Impossible weights and caps are refused and change nothing") {
  const std::vector<double> costs(3, 1.0);
  const auto make = [&](FixedBudgetSampling sampling) {
    Schedule(costs, {.drop_rate = 0.5}, std::move(sampling));
  };
  test::check_throws<std::invalid_argument>([&] { make({.weigh = BranchWeight::bytes}); },
                                            {"FixedBudgetSampling::bytes", "3", "0"});
  test::check_throws<std::invalid_argument>(
      [&] { make({.weigh = BranchWeight::bytes, .bytes = {1.0, 0.0, 1.0}}); },
      {"positive", "branch 1 are 0"});
  test::check_throws<std::invalid_argument>(
      [&] {
        make({.weigh = BranchWeight::bytes,
              .bytes = {1.0, std::numeric_limits<double>::quiet_NaN(), 1.0}});
      },
      {"positive and finite", "branch 1"});
  test::check_throws<std::invalid_argument>([&] { make({.cap = 0.0}); },
                                            {"cap must be positive", "0"});
  test::check_throws<std::invalid_argument>([&] { make({.cap = std::nan("")}); },
                                            {"cap must be positive"});
  CHECK_NOTHROW(make({.cap = std::numeric_limits<double>::infinity()}));
  test::check_throws<std::invalid_argument>(
      [&] { make({.weigh = BranchWeight::bytes, .bytes = {1.0, 1.5e308, 1.5e308}}); },
      {"finite sum", "larger unit"});
  test::check_throws<std::invalid_argument>(
      [&] { make({.cap = 0.5}); }, {"heaviest branch, which weighs 1", "it is 0.5", "raise it"});

  Schedule schedule({1.0, 1.0}, {.drop_rate = 0.5}, {.weigh = BranchWeight::cost, .cap = 3.0});
  const DropPlan before = schedule.plan(1);
  CHECK_THROWS_AS(schedule.set_costs(std::vector<double>{9.0, 1.0}), std::invalid_argument);
  CHECK(schedule.costs()[0] == 1.0);
  CHECK(schedule.total_cost() == 2.0);
  CHECK(schedule.plan(1) == before);
}
