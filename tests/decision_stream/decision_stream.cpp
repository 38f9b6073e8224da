// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The decisions of many steps as one hash. It must be the same for every compiler, optimisation
// level, floating-point mode and word size: ranks that were built differently must drop the same
// branches. CMakeLists.txt builds this several ways. Input that is not a number must be refused in
// each of them, also under -ffast-math.
#include <cstdint>
#include <cstdio>
#include <limits>
#include <stdexcept>
#include <vector>

#include "dropbp/policy/allocation.hpp"
#include "dropbp/policy/fixed_budget_sampling.hpp"
#include "dropbp/policy/sampling.hpp"
#include "dropbp/schedule.hpp"

namespace {

constexpr std::uint64_t expected_of_independent_draws = 0xdd1aa9b2a1494344u;
constexpr std::uint64_t expected_of_fixed_budgets = 0x9ff516f322bc535du;

std::uint64_t decisions = 0;
std::uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a

void take(std::uint64_t byte) { hash = (hash ^ byte) * 0x100000001b3u; }

template <class Sampling>
void take_plans(const dropbp::DropSchedule<Sampling>& schedule, std::uint64_t first_step,
                std::uint64_t steps) {
  dropbp::DropPlan plan;
  for (std::uint64_t step = first_step; step < first_step + steps; ++step) {
    schedule.draw(step, static_cast<std::uint32_t>(step % 5), plan);
    for (std::size_t i = 0; i < plan.size(); ++i) take(plan.dropped(i) ? 1 : 0);
    decisions += plan.size();
    const std::uint64_t fingerprint = plan.fingerprint();
    for (int shift = 0; shift < 64; shift += 8) take(fingerprint >> shift & 0xFF);
  }
}

// One rate for all, a rate each, and rates from an allocation.
template <class Sampling>
void take_schedules() {
  const std::size_t sizes[] = {1, 2, 3, 7, 10, 32, 49, 64, 98, 103, 161};
  const double rates[] = {0.0, 0x1p-53, 1e-3, 0.1, 0.3, 0.5, 0.7, 0.75, 0.875, 0.9, 1.0};
  std::uint64_t seed = 1;
  for (const std::size_t size : sizes) {
    std::vector<double> flops(size), sensitivities(size), each(size);
    for (std::size_t i = 0; i < size; ++i) {
      flops[i] = i % 2 == 0 ? 142606336.0 : 270532608.0;
      sensitivities[i] = static_cast<double>((i * 7919) % 101 + 1) / 64.0;
      each[i] = static_cast<double>((i * 31) % 17) / 16.0;
    }
    for (const double rate : rates) {
      seed = seed * 6364136223846793005u + 1442695040888963407u;
      dropbp::DropSchedule<Sampling> schedule(flops, {.drop_rate = rate, .seed = seed});
      take_plans(schedule, seed, 60);
      if (rate < 0.9) schedule.allocate(sensitivities, dropbp::GreedyAllocation{});
      take_plans(schedule, 0, 20);
      schedule.set_drop_rates(std::vector<double>(size, rate));
      take_plans(schedule, 1000, 10);
    }
    dropbp::DropSchedule<Sampling> schedule(flops, {.drop_rate = 0.5, .seed = seed});
    schedule.set_drop_rates(each);
    take_plans(schedule, ~std::uint64_t{0} - 10, 10);
  }
}

bool is_as_expected(const char* what, std::uint64_t expected) {
  std::printf("%s: %llu decisions, hash 0x%016llx\n", what,
              static_cast<unsigned long long>(decisions), static_cast<unsigned long long>(hash));
  if (hash != expected)
    std::printf("the decisions must have the hash 0x%016llx\n",
                static_cast<unsigned long long>(expected));
  return hash == expected;
}

template <class Call>
bool refuses(Call call) {
  try {
    call();
  } catch (const std::invalid_argument&) {
    return true;
  }
  return false;
}

// From text, so that no compiler can know what it is.
bool refuses_what_is_no_number() {
  bool refused = true;
  for (const char* const text : {"nan", "-nan", "inf", "-inf"}) {
    double bad = 0.0;
    refused = refused && std::sscanf(text, "%lf", &bad) == 1;
    dropbp::DropSchedule<> schedule({1.0, 1.0});
    refused = refused && refuses([&] { dropbp::DropSchedule<>({1.0, bad}); });
    refused = refused && refuses([&] { dropbp::DropSchedule<>({1.0}, {.drop_rate = bad}); });
    refused = refused && refuses([&] { schedule.set_drop_rate(bad); });
    refused = refused && refuses([&] { schedule.set_drop_rates(std::vector<double>{0.5, bad}); });
    refused = refused && refuses([&] { schedule.set_flops(std::vector<double>{0.5, bad}); });
    refused = refused && refuses([&] {
                schedule.allocate(std::vector<double>{0.5, bad}, dropbp::GreedyAllocation{});
              });
    refused = refused && refuses([&] {
                schedule.restore(0, dropbp::PlanPer::step, bad, std::vector<double>{0.5, 0.5});
              });
  }
  return refused;
}

}  // namespace

int main() {
  take_schedules<dropbp::BernoulliSampling>();
  take_schedules<dropbp::AtLeastTargetSampling>();
  bool same = is_as_expected("independent draws", expected_of_independent_draws);
  hash = 0xcbf29ce484222325u;
  take_schedules<dropbp::FixedBudgetSampling>();
  same = is_as_expected("fixed budgets", expected_of_fixed_budgets) && same;
  if (!same) return 1;
  if (!refuses_what_is_no_number()) {
    std::printf("a rate, cost or sensitivity that is no finite number must be refused\n");
    return 1;
  }
}
