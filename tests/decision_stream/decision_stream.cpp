// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Hashes the decisions of many steps with every policy. The hash must not depend on the compiler,
// optimisation level, floating-point mode or word size, because ranks that were built differently
// must drop the same branches. CMakeLists.txt builds this program in several ways. Every build must
// also reject NaN and infinity, even with -ffast-math.
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "dropbp/dropbp.hpp"

namespace {

constexpr std::uint64_t expected_of_independent_draws = 0xdd1aa9b2a1494344u;
constexpr std::uint64_t expected_of_fixed_budgets = 0x9ff516f322bc535du;
constexpr std::uint64_t expected_of_stages = 0xf6431d839b6f4ce4u;
constexpr std::uint64_t expected_of_weights_and_caps = 0xb6bb805435133811u;
constexpr std::uint64_t expected_of_allocations = 0xbe0da11664510b05u;
constexpr std::uint64_t expected_of_optimal_rates = 0xe8ff0470fa89d5c5u;
constexpr std::uint64_t expected_of_sensitivities = 0x2394e272ce2ff7acu;

constexpr std::uint64_t empty_hash = 0xcbf29ce484222325u;  // FNV-1a
std::uint64_t decisions = 0;
std::uint64_t hash = empty_hash;

void take(std::uint64_t byte) { hash = (hash ^ byte) * 0x100000001b3u; }

template <class Sampling>
void take_plans(const dropbp::DropSchedule<Sampling>& schedule, std::uint64_t first_step,
                std::uint64_t steps, bool with_fingerprints = true) {
  dropbp::DropPlan plan;
  for (std::uint64_t step = first_step; step < first_step + steps; ++step) {
    schedule.draw(step, static_cast<std::uint32_t>(step % 5), plan);
    for (std::size_t i = 0; i < plan.size(); ++i) take(plan.dropped(i) ? 1 : 0);
    decisions += plan.size();
    if (!with_fingerprints) continue;
    const std::uint64_t fingerprint = plan.fingerprint();
    for (int shift = 0; shift < 64; shift += 8) take(fingerprint >> shift & 0xFF);
  }
}

// Plans with one rate for all branches, one rate per branch, and allocated rates.
template <class Sampling>
void take_schedules() {
  const std::size_t sizes[] = {1, 2, 3, 7, 10, 32, 49, 64, 98, 103, 161};
  const double rates[] = {0.0, 0x1p-53, 1e-3, 0.1, 0.3, 0.5, 0.7, 0.75, 0.875, 0.9, 1.0};
  std::uint64_t seed = 1;
  for (const std::size_t size : sizes) {
    std::vector<double> costs(size), sensitivities(size), each(size);
    for (std::size_t i = 0; i < size; ++i) {
      costs[i] = i % 2 == 0 ? 142606336.0 : 270532608.0;
      sensitivities[i] = static_cast<double>((i * 7919) % 101 + 1) / 64.0;
      each[i] = static_cast<double>((i * 31) % 17) / 16.0;
    }
    for (const double rate : rates) {
      seed = seed * 6364136223846793005u + 1442695040888963407u;
      dropbp::DropSchedule<Sampling> schedule(costs, {.drop_rate = rate, .seed = seed});
      take_plans(schedule, seed, 60);
      if (rate < 0.9) schedule.allocate(sensitivities, dropbp::GreedyAllocation{});
      take_plans(schedule, 0, 20);
      schedule.set_drop_rates(std::vector<double>(size, rate));
      take_plans(schedule, 1000, 10);
    }
    dropbp::DropSchedule<Sampling> schedule(costs, {.drop_rate = 0.5, .seed = seed});
    schedule.set_drop_rates(each);
    take_plans(schedule, ~std::uint64_t{0} - 10, 10);
  }
}

// Stages of a pipeline, with one rate for all branches and one rate per branch.
void take_stages() {
  for (const std::size_t size : {1u, 8u, 49u, 161u}) {
    std::vector<std::uint32_t> groups(size);
    std::vector<double> each(size);
    for (std::size_t i = 0; i < size; ++i) {
      groups[i] = static_cast<std::uint32_t>(i * 4 / size);
      each[i] = static_cast<double>((i * 31) % 17) / 16.0;
    }
    for (const double rate : {0.0, 0x1p-53, 0.1, 0.3, 0.5, 0.75, 0.9, 1.0}) {
      dropbp::DropSchedule<dropbp::PerStageBudgetSampling> schedule(
          std::vector<double>(size, 1.0), {.drop_rate = rate, .seed = size, .groups = groups});
      take_plans(schedule, 0, 60);
      schedule.set_drop_rates(each);
      take_plans(schedule, 1000, 10);
    }
  }
}

// Random numbers with few bits: the product or sum of two is exact, and so equal in every build.
struct Random {
  std::uint64_t state;
  double unit() {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<double>(state >> 40) * 0x1p-24;
  }
};

// All kinds of weights, with and without a cap, in groups, during warm-up, in several units.
void take_weights_and_caps() {
  for (const double unit : {1.0, 0x1p-900, 0x1p900}) {
    for (const std::size_t size : {3u, 16u, 49u}) {
      Random random{size};
      std::vector<double> costs(size), bytes(size), each(size);
      std::vector<std::uint32_t> groups(size);
      double total = 0.0;
      for (std::size_t i = 0; i < size; ++i) {
        costs[i] = static_cast<double>((i * 31) % 17 + 1) * unit;
        bytes[i] = static_cast<double>((i * 7919) % 101 + 1) * unit;
        each[i] = random.unit();
        groups[i] = i % 3 == 0 ? 1 : 0;
        total += bytes[i];
      }
      for (const dropbp::FixedBudgetSampling& sampling :
           {dropbp::FixedBudgetSampling{.weigh = dropbp::BranchWeight::cost},
            dropbp::FixedBudgetSampling{.weigh = dropbp::BranchWeight::bytes, .bytes = bytes},
            dropbp::FixedBudgetSampling{
                .weigh = dropbp::BranchWeight::bytes, .bytes = bytes, .cap = total * 0.75},
            dropbp::FixedBudgetSampling{.cap = 2.0}}) {
        dropbp::DropSchedule<dropbp::FixedBudgetSampling> schedule(
            costs, {.drop_rate = 0.3, .seed = 5, .warmup_steps = 40, .groups = groups}, sampling);
        take_plans(schedule, 0, 60);
        schedule.set_drop_rates(each);
        take_plans(schedule, 0, 60);
        const double most = schedule.max_kept_weight() / unit;
        for (int shift = 0; shift < 64; shift += 8)
          take(std::bit_cast<std::uint64_t>(most) >> shift & 0xFF);
      }
    }
  }
}

template <class Allocation>
void take_allocation(dropbp::DropSchedule<>& schedule, std::span<const double> sensitivities,
                     const Allocation& allocation) {
  schedule.allocate(sensitivities, allocation);
  take_plans(schedule, 0, 10);
}

// x87 rounds products and quotients twice, so the last bits of OptimalAllocation's rates may
// differ. The decisions are the same, the fingerprints are not.
#if (defined(__x86_64__) || defined(__i386__)) && !defined(__SSE2_MATH__)
constexpr bool rounds_twice = true;
#else
constexpr bool rounds_twice = false;
#endif
std::uint64_t hash_of_optimal_rates = empty_hash;

template <class Objective>
void take_allocation(dropbp::DropSchedule<>& schedule, std::span<const double> sensitivities,
                     const dropbp::OptimalAllocation<Objective>& allocation) {
  schedule.allocate(sensitivities, allocation);
  take_plans(schedule, 0, 10, false);
  std::swap(hash, hash_of_optimal_rates);
  for (const double rate : schedule.drop_rates())
    for (int shift = 0; shift < 64; shift += 8)
      take(std::bit_cast<std::uint64_t>(rate) >> shift & 0xFF);
  std::swap(hash, hash_of_optimal_rates);
}

// All allocations, in several units.
void take_allocations() {
  for (const double unit : {1.0, 0x1p-200, 0x1p-900, 0x1p900}) {
    for (std::uint64_t instance = 0; instance < 40; ++instance) {
      Random random{instance};
      const std::size_t size = static_cast<std::size_t>(2 + instance % 30);
      std::vector<double> costs(size), sensitivities(size);
      for (std::size_t i = 0; i < size; ++i) {
        costs[i] = (0.125 + random.unit()) * unit;
        const double one = random.unit();
        sensitivities[i] = i % 7 == 3 ? 0.0 : one * one * unit;
      }
      dropbp::DropSchedule<> schedule(costs, {.drop_rate = 0.75 * random.unit(), .seed = instance});
      const std::span<const double> given(sensitivities);
      take_allocation(schedule, given, dropbp::UniformAllocation{});
      take_allocation(schedule, given, dropbp::GreedyAllocation{});
      take_allocation(schedule, given, dropbp::GreedyAllocation{.min_rate = 0.05});
      take_allocation(schedule, given, dropbp::OptimalAllocation<>{});
      take_allocation(schedule, given,
                      dropbp::OptimalAllocation<dropbp::ScaledVariance>{.max_rates = {0.95}});
    }
  }
}

// Gradients whose norms are whole numbers, so that their sums are exact in any order.
struct Gradients {
  std::vector<double> first{3.0, 4.0}, second{5.0, 12.0};
  template <class Visit>
  void for_each_gradient(Visit&& visit) {
    visit(first);
    visit(second);
  }
};

template <class Sensitivity>
double difference_by(const Sensitivity& policy, double factor) {
  Gradients gradients;
  const auto reference = policy.reference(gradients);
  for (double& one : gradients.second) one *= factor;
  return policy.difference(reference, gradients);
}

// Running estimates, and allocations from them and from both measured sensitivities.
void take_sensitivities() {
  for (const double unit : {1.0, 0x1p-900, 0x1p900}) {
    constexpr std::size_t size = 24;
    Random random{7};
    dropbp::RunningSensitivity running(size, 0.7, 20);
    dropbp::DropSchedule<> schedule(std::vector<double>(size, 1.0), {.drop_rate = 0.5, .seed = 3});
    dropbp::DropPlan plan;
    for (std::uint64_t step = 0; step < 50; ++step) {
      schedule.draw(step, 0, plan);
      const double scale = unit * static_cast<double>(step % 5 + 1);
      for (std::size_t i = 0; i < size; ++i) {
        const double norm = static_cast<double>(i + 1) * scale * (1.0 + 0.25 * random.unit());
        const double ratio = 0.875 + 0.25 * random.unit();
        if (plan.kept(i)) running.observe(i, norm, ratio);
      }
      running.end_step();
      take_allocation(schedule, running.sensitivities(), dropbp::GreedyAllocation{});
    }
  }
  std::vector<double> by_norm, by_distance;
  for (const double factor : {0.0, 1.0, 2.0, 5.0}) {
    by_norm.push_back(difference_by(dropbp::GradientNormSensitivity{}, factor));
    by_distance.push_back(difference_by(dropbp::GradientSensitivity{}, factor));
  }
  dropbp::DropSchedule<> schedule({1.0, 2.0, 3.0, 4.0}, {.drop_rate = 0.4, .seed = 3});
  take_allocation(schedule, by_norm, dropbp::GreedyAllocation{});
  take_allocation(schedule, by_distance, dropbp::GreedyAllocation{});
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

struct Layer {
  dropbp::BranchCalls counted;
  void decide(const dropbp::BranchDecision&) noexcept {}
  double cost() const { return 1.0; }
  dropbp::BranchCalls calls() const { return counted; }
  void set_calls(dropbp::BranchCalls calls) { counted = calls; }
};
struct Model {
  Layer layers[2];
  template <class Visit>
  void for_each_layer(Visit&& visit) {
    for (Layer& layer : layers) visit(layer);
  }
};

// Reads the numbers from text, so that the compiler cannot assume that they are finite.
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
    refused = refused && refuses([&] { schedule.set_costs(std::vector<double>{0.5, bad}); });
    refused = refused && refuses([&] {
                schedule.allocate(std::vector<double>{0.5, bad}, dropbp::GreedyAllocation{});
              });
    refused = refused && refuses([&] {
                schedule.restore(0, dropbp::PlanPer::step, bad, std::vector<double>{0.5, 0.5});
              });
    const std::vector<double> ones{1.0, 1.0};
    const auto allocates = [&](const auto& allocation) { schedule.allocate(ones, allocation); };
    refused = refused && refuses([&] { allocates(dropbp::GreedyAllocation{.min_rate = bad}); });
    refused = refused && refuses([&] { allocates(dropbp::OptimalAllocation<>{.min_rates{bad}}); });
    refused = refused && refuses([&] { allocates(dropbp::OptimalAllocation<>{.max_rates{bad}}); });
    using Budget = dropbp::FixedBudgetSampling;
    const auto samples = [&](Budget sampling) {
      dropbp::DropSchedule<Budget>(ones, {.drop_rate = 0.5}, std::move(sampling));
    };
    // An infinite cap means no cap.
    const bool is_infinite = text[0] == 'i';
    refused = refused && refuses([&] { samples({.cap = bad}); }) != is_infinite;
    refused = refused && refuses([&] {
                samples({.weigh = dropbp::BranchWeight::bytes, .bytes = {1.0, bad}});
              });
    dropbp::RunningSensitivity running(2);
    refused = refused && refuses([&] { dropbp::RunningSensitivity(2, bad); });
    refused = refused && refuses([&] { running.observe(0, bad); });
    refused = refused && refuses([&] { running.observe(0, 1.0, bad); });
    auto observed = running.state();
    observed.ratios[1] = bad;
    refused = refused && refuses([&] { running.restore(observed); });
    Model model;
    dropbp::DropBPHandler handler{model};
    dropbp::HandlerState state = handler.state();
    state.sensitivities = {1.0, bad};
    refused = refused && refuses([&] { handler.restore(state); });
    state = handler.state();
    state.drop_rates[1] = bad;
    refused = refused && refuses([&] { handler.restore(state); });
  }
  return refused;
}

}  // namespace

int main() {
  take_schedules<dropbp::BernoulliSampling>();
  take_schedules<dropbp::AtLeastTargetSampling>();
  bool same = is_as_expected("independent draws", expected_of_independent_draws);
  hash = empty_hash;
  take_schedules<dropbp::FixedBudgetSampling>();
  same = is_as_expected("fixed budgets", expected_of_fixed_budgets) && same;
  hash = empty_hash;
  take_stages();
  same = is_as_expected("stages", expected_of_stages) && same;
  hash = empty_hash;
  take_weights_and_caps();
  same = is_as_expected("weights and caps", expected_of_weights_and_caps) && same;
  hash = empty_hash;
  take_allocations();
  same = is_as_expected("allocations", expected_of_allocations) && same;
  hash = hash_of_optimal_rates;
  if (rounds_twice)
    std::printf("optimal rates: bits not compared, because x87 rounds twice\n");
  else
    same = is_as_expected("optimal rates", expected_of_optimal_rates) && same;
  hash = empty_hash;
  take_sensitivities();
  same = is_as_expected("sensitivities", expected_of_sensitivities) && same;
  if (!same) return 1;
  if (!refuses_what_is_no_number()) {
    std::printf("a rate, cost, sensitivity or bound must be refused if it is not finite\n");
    return 1;
  }
  return 0;  // tests/mutation calls it as a function
}
