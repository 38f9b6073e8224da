// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// OptimalAllocation: the conditions of an optimum, a comparison with the other policies, and edge
// cases.
#include "dropbp/policy/optimal_allocation.hpp"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "dropbp/base/philox.hpp"
#include "support/catch.hpp"
#include "support/promise.hpp"
#include "support/throws.hpp"
#include "support/worst.hpp"

using dropbp::GreedyAllocation;
using dropbp::OptimalAllocation;
using dropbp::ScaledVariance;
using dropbp::SquaredRate;
using dropbp::UniformAllocation;
using dropbp::test::keep_worst;
using test::check_throws;

namespace {

using Rates = std::vector<double>;

struct Instance {
  Rates sensitivities, costs;
  double drop_rate;

  double total() const {
    double sum = 0.0;
    for (const double one : costs) sum += one;
    return sum;
  }
  dropbp::AllocationInput input() const {
    return {.sensitivities = sensitivities,
            .costs = costs,
            .drop_rate = drop_rate,
            .kept_cost = (1.0 - drop_rate) * total()};
  }
  double kept(const Rates& rates) const {
    double sum = 0.0;
    for (std::size_t i = 0; i < rates.size(); ++i) sum += costs[i] * (1.0 - rates[i]);
    return sum;
  }
  template <class Phi>
  double objective(const Rates& rates, Phi phi) const {
    double sum = 0.0;
    for (std::size_t i = 0; i < rates.size(); ++i)
      if (sensitivities[i] > 0.0 && rates[i] > 0.0) sum += sensitivities[i] * phi(rates[i]);
    return sum;
  }
};

double squared(double p) { return p * p; }
double scaled(double p) { return p / (1.0 - p); }

// phi(p) = p^3 as a user's penalty.
struct Cube {
  double rate_at(double slope) const { return std::sqrt(slope / 3.0); }
};
double cube(double p) { return p * p * p; }

struct Draw {
  explicit Draw(std::uint64_t instance) : random{instance, dropbp::RandomStream::user, 0} {}
  double uniform() { return static_cast<double>(random(next++) >> 11) * 0x1p-53; }
  double log_uniform(double decades) { return std::pow(10.0, decades * (uniform() - 0.5)); }
  dropbp::CounterRandom random;
  std::uint64_t next = 0;
};

Instance random_instance(std::uint64_t number, std::size_t largest, double highest_rate) {
  Draw draw(number);
  Instance instance;
  const std::size_t size =
      1 + static_cast<std::size_t>(draw.uniform() * static_cast<double>(largest));
  const double decades = number % 3 == 0 ? 0.5 : number % 3 == 1 ? 3.0 : 12.0;
  for (std::size_t i = 0; i < size; ++i) {
    instance.sensitivities.push_back(
        number % 5 == 0 && draw.uniform() < 0.3 ? 0.0 : draw.log_uniform(decades));
    instance.costs.push_back(draw.log_uniform(number % 2 == 0 ? 0.5 : 4.0));
  }
  instance.drop_rate = highest_rate * draw.uniform();
  return instance;
}

// The least objective for p^2 between 0 and 1, found by trying all ways to clip: each branch at 0,
// at 1, or between.
double brute_force_squared(const Instance& instance) {
  const std::size_t size = instance.costs.size();
  std::size_t ways = 1;
  for (std::size_t i = 0; i < size; ++i) ways *= 3;
  double best = std::numeric_limits<double>::infinity();
  const double needed = instance.drop_rate * instance.total();
  for (std::size_t way = 0; way < ways; ++way) {
    double dropped = 0.0, weight = 0.0;
    for (std::size_t i = 0, rest = way; i < size; ++i, rest /= 3) {
      if (rest % 3 == 1) dropped += instance.costs[i];
      if (rest % 3 == 2)
        weight += instance.costs[i] * instance.costs[i] / instance.sensitivities[i];
    }
    const double lambda = weight > 0.0 ? (needed - dropped) / weight : 0.0;
    Rates rates(size);
    bool feasible = lambda >= 0.0;
    for (std::size_t i = 0, rest = way; i < size; ++i, rest /= 3) {
      rates[i] = rest % 3 == 0   ? 0.0
                 : rest % 3 == 1 ? 1.0
                                 : lambda * instance.costs[i] / instance.sensitivities[i];
      feasible = feasible && rates[i] <= 1.0;
    }
    // A kept cost is a difference of whole costs: its rounding error is relative to the total.
    if (feasible && instance.kept(rates) <= instance.input().kept_cost + 1e-14 * instance.total())
      best = std::fmin(best, instance.objective(rates, squared));
  }
  return best;
}

// How far the rates are from an optimum: the largest relative difference of the multiplier S
// phi'(p) / f between two branches away from their bounds, or by how much it violates the condition
// at a bound.
template <class Slope>
double multiplier_spread(const Instance& instance, const Rates& rates, Slope slope, double low,
                         double high) {
  double least = std::numeric_limits<double>::infinity(),
         most = 0.0;  // over the rates that can still rise, and fall
  for (std::size_t i = 0; i < rates.size(); ++i) {
    if (instance.sensitivities[i] == 0.0) continue;
    const double multiplier = instance.sensitivities[i] * slope(rates[i]) / instance.costs[i];
    if (rates[i] < high) least = std::fmin(least, multiplier);
    if (rates[i] > low) most = std::fmax(most, multiplier);
  }
  return most > least ? (most - least) / most : 0.0;
}

}  // namespace

TEST_CASE("rate_at is the inverse of the derivative of phi") {
  for (const double rate : {0.0, 0.125, 0.5, 0.75}) {
    CHECK(dropbp::SquaredRate::rate_at(2.0 * rate) == rate);
    CHECK(ScaledVariance::rate_at(1.0 / ((1.0 - rate) * (1.0 - rate))) == Approx(rate));
  }
  CHECK(ScaledVariance::rate_at(0.5) == 0.0);
}

TEST_CASE("OptimalAllocation keeps the budget exactly, and its multipliers are equal") {
  double budget = 0.0, spread = 0.0;
  for (std::uint64_t number = 0; number < 3000; ++number) {
    const Instance instance = random_instance(number, 40, 1.0);
    const auto check = [&](const auto& policy, auto slope, double low, double high) {
      const Rates rates = policy.allocate(instance.input());
      for (const double rate : rates) REQUIRE((rate >= low && rate <= high));
      const double needed = std::fmin(instance.input().kept_cost, instance.total() * (1.0 - low));
      keep_worst(budget, std::fabs(instance.kept(rates) - needed) / instance.total());
      keep_worst(spread, multiplier_spread(instance, rates, slope, low, high));
    };
    check(OptimalAllocation<>{}, [](double p) { return 2.0 * p; }, 0.0, 1.0);
    check(OptimalAllocation<Cube>{}, [](double p) { return 3.0 * p * p; }, 0.0, 1.0);
    check(
        OptimalAllocation<ScaledVariance>{}, [](double p) { return 1.0 / ((1.0 - p) * (1.0 - p)); },
        0.0, 1.0);
    if (instance.drop_rate < 0.9)
      check(
          OptimalAllocation<>{.min_rates = {0.05}, .max_rates = {0.9}},
          [](double p) { return 2.0 * p; }, 0.05, 0.9);
  }
  CHECK(budget <= 1e-14);
  CHECK(spread <= 1e-6);
}

TEST_CASE("OptimalAllocation is as good as the best of all ways to clip") {
  double worst = 0.0;
  std::size_t equal = 0;
  for (std::uint64_t number = 0; number < 10'000; ++number) {
    Instance instance = random_instance(number, 6, 1.0);
    for (double& sensitivity : instance.sensitivities)
      sensitivity += 1e-9;  // the formula divides by it
    const double best = brute_force_squared(instance);
    const double found =
        instance.objective(OptimalAllocation<>{}.allocate(instance.input()), squared);
    const double difference = std::fabs(found - best) / (best + 1e-300);
    keep_worst(worst, difference);
    equal += difference <= 1e-9;
  }
  CHECK(worst <= 1e-9);
  CHECK(equal == 10'000);
  dropbp_test::promise(6, "equal_to_brute_force=%zu worst_difference=%.1e", equal, worst);
}

TEST_CASE("No other policy has a smaller objective") {
  double worst_squared = 0.0, worst_scaled = 0.0, worst_cube = 0.0;
  std::size_t better = 0, compared = 0;
  for (std::uint64_t number = 0; number < 20000; ++number) {
    const Instance instance = random_instance(number, 32, 0.85);
    const Rates optimal = OptimalAllocation<>{}.allocate(instance.input());
    const Rates for_variance = OptimalAllocation<ScaledVariance>{}.allocate(instance.input());
    const Rates for_cube = OptimalAllocation<Cube>{}.allocate(instance.input());
    const auto compare = [&](const Rates& other) {
      // The other policy dropped this much beyond the budget, which can only have raised its
      // objective.
      const auto excess = [&](const Rates& ours, auto phi) {
        const double theirs = instance.objective(other, phi);
        return (instance.objective(ours, phi) - theirs) / (theirs + 1e-300);
      };
      keep_worst(worst_squared, excess(optimal, squared));
      keep_worst(worst_scaled, excess(for_variance, scaled));
      keep_worst(worst_cube, excess(for_cube, cube));
      better += excess(optimal, squared) < -0.01;
      ++compared;
    };
    compare(UniformAllocation{}.allocate(instance.input()));
    compare(GreedyAllocation{}.allocate(instance.input()));
  }
  CHECK(worst_squared <= 1e-9);
  CHECK(worst_scaled <= 1e-9);
  CHECK(worst_cube <= 1e-9);
  CHECK(better > compared / 2);  // and most are far worse
}

TEST_CASE("Rates do not depend on the units of sensitivities and costs") {
  double worst = 0.0;
  for (std::uint64_t number = 0; number < 1000; ++number) {
    const Instance instance = random_instance(number, 20, 1.0);
    const Rates rates = OptimalAllocation<>{}.allocate(instance.input());
    for (const double factor : {1e-30, 3.0, 1e30}) {
      Instance other = instance;
      for (double& one : other.sensitivities) one *= factor;
      const Rates by_sensitivity = OptimalAllocation<>{}.allocate(other.input());
      for (double& one : other.costs) one *= factor;
      const Rates by_both = OptimalAllocation<>{}.allocate(other.input());
      for (std::size_t i = 0; i < rates.size(); ++i) {
        keep_worst(worst, std::fabs(by_sensitivity[i] - rates[i]));
        keep_worst(worst, std::fabs(by_both[i] - rates[i]));
      }
    }
  }
  CHECK(worst <= 1e-9);
}

TEST_CASE("Branches with sensitivity 0 are dropped first, all at one rate") {
  const Instance some{
      {0.0, 1.0, 0.0, 2.0}, {1.0, 2.0, 3.0, 4.0}, 0.2};  // 2 of the 4 FLOPs with sensitivity 0
  const Rates rates = OptimalAllocation<>{}.allocate(some.input());
  CHECK(rates[0] == Approx(0.5));
  CHECK(rates[2] == rates[0]);
  CHECK((rates[1] == 0.0 && rates[3] == 0.0));
  const Instance more{
      {0.0, 1.0, 0.0, 2.0}, {1.0, 2.0, 3.0, 4.0}, 0.6};  // all 4, and 2 of the others
  const Rates further = OptimalAllocation<>{}.allocate(more.input());
  CHECK((further[0] == 1.0 && further[2] == 1.0));
  CHECK(further[1] == Approx(further[3]));  // f / S is the same
  CHECK(further[1] == Approx(2.0 / 6.0));
  const Instance none{{0.0, 0.0, 0.0}, {1.0, 2.0, 3.0}, 0.3};
  for (const double rate : OptimalAllocation<>{}.allocate(none.input())) CHECK(rate == Approx(0.3));
  for (const double rate : OptimalAllocation<ScaledVariance>{}.allocate(none.input()))
    CHECK(rate == Approx(0.3));
}

TEST_CASE("Equal branches get equal rates, and branches with cost 0 keep their lowest rate") {
  const Instance equal{Rates(7, 3.0), Rates(7, 2.0), 0.4};
  for (const double rate : OptimalAllocation<>{}.allocate(equal.input()))
    CHECK(rate == Approx(0.4).epsilon(1e-14));
  for (const double rate : OptimalAllocation<ScaledVariance>{}.allocate(equal.input()))
    CHECK(rate == Approx(0.4).epsilon(1e-14));
  const Instance without{{1.0, 1.0, 0.0}, {1.0, 0.0, 0.0}, 0.5};
  const Rates rates = OptimalAllocation<>{}.allocate(without.input());
  CHECK(rates[0] == Approx(0.5).epsilon(1e-14));
  CHECK((rates[1] == 0.0 && rates[2] == 0.0));
  CHECK(OptimalAllocation<>{.min_rates = {0.1}}.allocate(without.input())[1] == 0.1);
  CHECK(OptimalAllocation<>{}.allocate({Rates{}, Rates{}, 0.5, 0.0}).empty());
}

TEST_CASE("Rates are valid over the whole range of targets and magnitudes") {
  for (const double drop_rate : {0.0, 1.0}) {
    const Instance instance{{1.0, 2.0, 0.0}, {3.0, 1.0, 1.0}, drop_rate};
    CHECK(OptimalAllocation<>{}.allocate(instance.input()) == Rates(3, drop_rate));
    CHECK(OptimalAllocation<ScaledVariance>{}.allocate(instance.input()) == Rates(3, drop_rate));
  }
  struct Shifted {  // phi = (p - 0.25)^2, whose least value is not at 0
    static double rate_at(double slope) { return 0.25 + slope / 2.0; }
  };
  const Instance nothing{{1.0, 2.0}, {3.0, 1.0}, 0.0};  // needs no drop, whatever the objective
  CHECK(OptimalAllocation<Shifted>{}.allocate(nothing.input()) == Rates(2, 0.0));
  const Instance huge{{1e-30, 1e30, 1.0, std::numeric_limits<double>::denorm_min(),
                       std::numeric_limits<double>::max()},
                      {1e30, 1e-30, 1.0, 1e30, 1e30},
                      0.75};
  double worst = 0.0;
  for (const Rates& rates : {OptimalAllocation<>{}.allocate(huge.input()),
                             OptimalAllocation<ScaledVariance>{}.allocate(huge.input())}) {
    for (const double rate : rates) CHECK((rate >= 0.0 && rate <= 1.0));
    keep_worst(worst, std::fabs(huge.kept(rates) - huge.input().kept_cost) / huge.total());
  }
  CHECK(worst <= 1e-14);
}

TEST_CASE("Bounds hold for every branch, and a target beyond them is refused") {
  const Instance instance{{1.0, 1.0, 1.0, 1e-9}, {1.0, 1.0, 1.0, 1.0}, 0.5};
  const Rates rates =
      OptimalAllocation<>{.min_rates = {0.0, 0.7, 0.0, 0.0}, .max_rates = {0.1, 1.0, 1.0, 0.8}}
          .allocate(instance.input());
  CHECK((rates[0] == 0.1 && rates[1] == 0.7 && rates[3] == 0.8));
  CHECK(rates[2] == Approx(0.4));
  for (const double rate : OptimalAllocation<>{.max_rates = {0.5}}.allocate(instance.input()))
    CHECK(rate == Approx(0.5).epsilon(1e-14));  // the upper bound
  CHECK(OptimalAllocation<>{.min_rates = {0.6}}.allocate(instance.input()) ==
        Rates(4, 0.6));  // above the target

  CHECK(OptimalAllocation<>{.min_rates = {0.5}, .max_rates = {0.5}}.allocate(instance.input()) ==
        Rates(4, 0.5));  // equal bounds

  const auto refused = [&](const OptimalAllocation<>& policy,
                           std::initializer_list<std::string_view> parts) {
    check_throws<std::invalid_argument>([&] { policy.allocate(instance.input()); }, parts);
  };
  refused({.max_rates = {0.4}}, {"at most 0.4,", "0.5", "raise max_rates"});
  refused({.max_rates = {0.9, 0.9}}, {"max_rates", "one a branch (4)", "2 were given"});
  refused({.min_rates = {0.9, 0.9, 0.9, 0.9, 0.9}}, {"min_rates", "5 were given"});
  refused({.min_rates = {-0.1}}, {"min_rates", "[0, 1]"});
  refused({.max_rates = {std::nan("")}}, {"max_rates", "[0, 1]"});
  refused({.min_rates = {0.6}, .max_rates = {0.7, 0.7, 0.5, 0.7}}, {"branch 2", "0.6", "0.5"});
}

TEST_CASE("A target of 1 is reached where no multiplier of a double reaches it") {
  // The ratio of cost and sensitivity of the second branch is so small that the largest double
  // gives it a rate of 0.9999.
  const Instance instance{{1.0, 1.0}, {1.0, 1e-300}, 1.0};
  CHECK(OptimalAllocation<ScaledVariance>{}.allocate(instance.input()) == Rates{1.0, 1.0});
}
