// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Allocation and sampling policies over costs, sensitivities and rates of any bits: what is
// accepted keeps the budget, is optimal where that is promised, and does not depend on the units.
#include <bit>
#include <cmath>
#include <string>
#include <type_traits>
#include <vector>

#include <dropbp/dropbp.hpp>
#include <dropbp/policy/fixed_budget_sampling.hpp>
#include <dropbp/policy/sharp_allocation.hpp>

#include "fuzz.hpp"

namespace {

using Numbers = std::vector<double>;

struct Instance {
  Numbers costs, sensitivities;
  double drop_rate = 0.5;
  std::vector<std::uint32_t> groups;
};

double number(fuzz::Input& input, bool any_bits) {
  if (any_bits) return input.take<double>();
  const std::size_t byte = input.below(256);
  return byte < 64 ? static_cast<double>(byte)
                   : std::ldexp(1.0 + static_cast<double>(byte % 16) / 16.0,
                                static_cast<int>(byte / 2) - 80);
}

Instance take_instance(fuzz::Input& input) {
  const std::size_t kind = input.below(8);
  Instance instance;
  instance.drop_rate =
      (kind & 4u) != 0 ? input.take<double>() : static_cast<double>(input.below(101)) / 100.0;
  const std::size_t branches = 1 + input.below(9);
  for (std::size_t i = 0; i < branches; ++i) {
    instance.costs.push_back(number(input, (kind & 1u) != 0));
    instance.sensitivities.push_back(number(input, (kind & 2u) != 0));
  }
  if (input.below(4) == 0)
    for (std::size_t i = 0; i < branches; ++i)
      instance.groups.push_back(static_cast<std::uint32_t>(i < branches / 2 ? 0 : 1));
  return instance;
}

long double sum_of(const Numbers& costs, const Numbers& rates) {
  long double kept = 0.0L;
  for (std::size_t i = 0; i < costs.size(); ++i) kept += costs[i] * (1.0L - rates[i]);
  return kept;
}

/// The objective over the largest sensitivity, so that nothing overflows.
long double objective(const Numbers& sensitivities, const Numbers& rates) {
  long double most = 0.0L, sum = 0.0L;
  for (const double one : sensitivities) most = std::fmax(most, one);
  for (std::size_t i = 0; i < rates.size(); ++i)
    sum += (most > 0.0L ? sensitivities[i] / most : 0.0L) * rates[i] * rates[i];
  return sum;
}

/// The least objective of all rates in steps of an eighth within the budget.
long double least_on_a_grid(const Instance& instance, long double budget) {
  const std::size_t size = instance.costs.size();
  Numbers rates(size, 0.0);
  long double least = static_cast<long double>(size);
  for (;;) {
    if (sum_of(instance.costs, rates) <= budget)
      least = std::fmin(least, objective(instance.sensitivities, rates));
    std::size_t i = 0;
    while (i < size && rates[i] == 1.0) rates[i++] = 0.0;
    if (i == size) return least;
    rates[i] += 0.125;
  }
}

template <class Sampling, class Policy>
bool allocate(dropbp::DropSchedule<Sampling>& schedule, const Numbers& sensitivities,
              const Policy& policy) {
  return fuzz::accepts<std::invalid_argument>([&] { schedule.allocate(sensitivities, policy); });
}

void check_rates(const dropbp::DropSchedule<>& schedule, const Instance& instance,
                 const char* name) {
  const std::string who(name);
  Numbers rates(schedule.drop_rates().begin(), schedule.drop_rates().end());
  fuzz::require(rates.size() == instance.costs.size(), who + ": a rate for each branch");
  for (const double rate : rates)
    fuzz::require(rate >= 0.0 && rate <= 1.0, who + ": a rate outside [0, 1]");
  const long double total = sum_of(instance.costs, Numbers(rates.size(), 0.0));
  const long double budget = (1.0L - instance.drop_rate) * total;
  // Float32 rates of the published allocation are rounded; the others to doubles.
  fuzz::require(sum_of(instance.costs, rates) <= budget + 2e-6L * total, who + ": over the budget");
}

/// Rates do not change with powers of two of the units, where no number leaves its range.
template <class Policy>
void check_units(const Instance& instance, const Numbers& rates, const Policy& policy,
                 const char* name) {
  for (const int shift : {-3, 5}) {
    Numbers costs = instance.costs, sensitivities = instance.sensitivities;
    for (Numbers* numbers : {&costs, &sensitivities})
      for (double& one : *numbers) {
        if (one != 0.0 && !(one > 0x1p-1000 && one < 0x1p1000)) return;
        one = std::ldexp(one, shift);
      }
    dropbp::DropSchedule<> scaled{costs, {.drop_rate = instance.drop_rate}};
    scaled.allocate(sensitivities, policy);
    fuzz::require(Numbers(scaled.drop_rates().begin(), scaled.drop_rates().end()) == rates,
                  std::string(name) + ": rates depend on the units");
  }
}

void check_optimal(const Instance& instance, const Numbers& rates, const Numbers& others) {
  const long double own = objective(instance.sensitivities, rates);
  fuzz::require(own <= objective(instance.sensitivities, others) * (1.0L + 1e-5L) + 1e-5L,
                "another policy is better than the optimal one");
  if (instance.costs.size() > 3) return;
  const long double total = sum_of(instance.costs, Numbers(rates.size(), 0.0));
  const long double budget = (1.0L - instance.drop_rate) * total;
  fuzz::require(own <= least_on_a_grid(instance, budget) + 1e-9L,
                "rates on a grid are better than the optimal ones");
}

void check_allocation(const Instance& instance, const dropbp::DropSchedule<>& fresh) {
  Numbers optimal, greedy;
  const auto run = [&](const auto& policy, const char* name) {
    dropbp::DropSchedule<> schedule = fresh;
    if (!allocate(schedule, instance.sensitivities, policy)) return Numbers();
    check_rates(schedule, instance, name);
    const Numbers rates(schedule.drop_rates().begin(), schedule.drop_rates().end());
    check_units(instance, rates, policy, name);
    return rates;
  };
  run(dropbp::UniformAllocation{}, "UniformAllocation");
  run(dropbp::SharpAllocation{}, "SharpAllocation");
  greedy = run(dropbp::GreedyAllocation{}, "GreedyAllocation");
  optimal = run(dropbp::OptimalAllocation<>{}, "OptimalAllocation");
  if (optimal.empty()) return;
  check_optimal(instance, optimal, Numbers(optimal.size(), instance.drop_rate));
  if (!greedy.empty()) check_optimal(instance, optimal, greedy);
}

template <class Sampling>
void check_plans(const Instance& instance, const Numbers& rates, const Sampling& sampling) {
  dropbp::DropSchedule<Sampling> schedule;
  if (!fuzz::accepts<std::invalid_argument>([&] {
        schedule = dropbp::DropSchedule<Sampling>(
            instance.costs, {.drop_rate = instance.drop_rate, .seed = 1, .groups = instance.groups},
            sampling);
        if (!rates.empty()) schedule.set_drop_rates(rates);
      }))
    return;
  for (std::uint64_t step = 0; step < 3; ++step) {
    const dropbp::DropPlan plan = schedule.plan(step);
    fuzz::require(plan == schedule.plan(step), "a plan is not a function of its step");
    std::vector<std::size_t> kept(2);
    for (std::size_t i = 0; i < plan.size(); ++i) {
      const double rate = schedule.drop_rates()[i];
      // The published sampler fills up its target with branches of any rate.
      fuzz::require(
          rate > 0.0 || plan.kept(i) || std::is_same_v<Sampling, dropbp::AtLeastTargetSampling>,
          "a branch of rate 0 is dropped");
      fuzz::require(rate < 1.0 || plan.dropped(i), "a branch of rate 1 is kept");
      kept[instance.groups.empty() ? 0 : instance.groups[i]] += plan.kept(i);
    }
    for (std::uint32_t group = 0; group < kept.size(); ++group)
      if (kept[group] > 0)
        fuzz::require(kept[group] <= schedule.max_kept(group), "more branches than the bound");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  const Instance instance = take_instance(input);
  dropbp::DropSchedule<> schedule;
  if (!fuzz::accepts<std::invalid_argument>([&] {
        schedule = dropbp::DropSchedule<>{instance.costs, {.drop_rate = instance.drop_rate}};
      }))
    return 0;
  check_allocation(instance, schedule);
  Numbers rates;
  if (input.below(2) == 1)
    for (std::size_t i = 0; i < instance.costs.size(); ++i)
      rates.push_back(input.below(2) == 0 ? static_cast<double>(input.below(5)) / 4.0
                                          : input.take<double>());
  check_plans(instance, rates, dropbp::BernoulliSampling{});
  check_plans(instance, rates, dropbp::AtLeastTargetSampling{});
  check_plans(instance, rates, dropbp::FixedBudgetSampling{});
  return 0;
}
