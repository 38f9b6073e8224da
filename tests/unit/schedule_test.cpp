// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A schedule without tensors: pure plans, rates, budgets, and what is refused.
#include "dropbp/schedule.hpp"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "dropbp/policy/fixed_budget_sampling.hpp"
#include "support/catch.hpp"
#include "support/statistics.hpp"
#include "support/throws.hpp"

using dropbp::AtLeastTargetSampling;
using dropbp::BernoulliSampling;
using dropbp::DropPlan;
using dropbp::DropSchedule;
using dropbp::GreedyAllocation;
using dropbp::PlanPer;
using dropbp::UniformAllocation;

namespace {

std::vector<double> to_vector(std::span<const double> values) {
  return {values.begin(), values.end()};
}

std::string invalid_argument_of(auto call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return {};
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

}  // namespace

TEST_CASE("A plan is a pure function of the step: any order and any copy give the same plan") {
  const DropSchedule<> schedule(std::vector<double>(24, 1.0), {.drop_rate = 0.5, .seed = 42});
  const DropSchedule<> copy = schedule;
  std::vector<DropPlan> plans;
  for (std::uint64_t step = 0; step < 50; ++step) plans.push_back(schedule.plan(step));
  for (std::uint64_t step = 50; step-- > 0;) CHECK(copy.plan(step) == plans[step]);
  std::set<std::uint64_t> fingerprints;
  for (const DropPlan& plan : plans) fingerprints.insert(plan.fingerprint());
  CHECK(fingerprints.size() == plans.size());
}

TEST_CASE("All 64 bits of seeds and steps change the plans") {
  const std::vector<double> costs(64, 1.0);
  const DropSchedule<> a(costs, {.seed = 1}), b(costs, {.seed = 1 + (std::uint64_t{1} << 32)});
  const auto mask = [](const DropPlan& plan) {
    std::uint64_t bits = 0;
    for (std::size_t i = 0; i < plan.size(); ++i) bits = bits << 1 | (plan.dropped(i) ? 1u : 0u);
    return bits;
  };
  CHECK(mask(a.plan(7)) != mask(b.plan(7)));
  CHECK(mask(a.plan(7)) != mask(a.plan(7 + (std::uint64_t{1} << 32))));
}

TEST_CASE("Micro-steps have plans of their own or share the step's plan") {
  const std::vector<double> costs(64, 1.0);
  const DropSchedule<> own(costs, {.seed = 3, .plan_per = PlanPer::micro_step});
  const DropSchedule<> shared(costs, {.seed = 3, .plan_per = PlanPer::step});
  const auto same_decisions = [](const DropPlan& a, const DropPlan& b) {
    for (std::size_t i = 0; i < a.size(); ++i)
      if (a.dropped(i) != b.dropped(i)) return false;
    return true;
  };
  for (std::uint32_t micro_step = 1; micro_step < 20; ++micro_step) {
    CHECK_FALSE(same_decisions(own.plan(5, micro_step), own.plan(5)));
    CHECK(same_decisions(shared.plan(5, micro_step), shared.plan(5)));
    CHECK(shared.plan(5, micro_step).micro_step() == micro_step);
  }
  CHECK(same_decisions(own.plan(5), shared.plan(5)));
}

TEST_CASE("A plan takes trainable_below from the options") {
  const DropSchedule<> schedule({1, 1}, {.drop_rate = 0.0, .trainable_below = false});
  CHECK_FALSE(schedule.plan(0).input_gradient_needed(0));
  CHECK(schedule.plan(0).input_gradient_needed(1));
  CHECK(DropSchedule<>({1, 1}, {.drop_rate = 0.0}).plan(0).input_gradient_needed(0));
}

TEST_CASE(
    "A schedule drops what is below the lowest trainable branch, and can be told what is "
    "trainable") {
  DropSchedule<> schedule({1, 1, 1, 1},
                          {.drop_rate = 0.0, .trainable_below = false, .trainable = {0, 0, 1, 0}});
  CHECK(schedule.plan(3).kept_count() == 2);
  CHECK(schedule.plan(3).lowest_kept() == 2);
  CHECK_FALSE(schedule.plan(3).input_gradient_needed(2));
  CHECK(schedule.trainable(2));
  CHECK_FALSE(schedule.trainable(3));
  schedule.set_trainable(1, true);
  CHECK(schedule.plan(3).lowest_kept() == 1);
  schedule.set_trainable(1, false);
  schedule.set_trainable(2, false);
  CHECK(schedule.plan(3).all_dropped());
  CHECK_FALSE(schedule.plan(3).backward_needed());

  DropSchedule<> all({1, 1}, {.drop_rate = 0.0, .trainable_below = false});
  all.set_trainable(1, true);
  CHECK(all.options().trainable.empty());
  all.set_trainable(0, false);
  CHECK(all.options().trainable == std::vector<std::uint8_t>{0, 1});
  CHECK(all.plan(0).lowest_kept() == 1);
  CHECK_THROWS_AS(all.set_trainable(2, true), std::out_of_range);
  CHECK_THROWS_AS(DropSchedule<>({1, 1}, {.trainable = {1}}), std::invalid_argument);
}

TEST_CASE("Rates of 0 and 1 are certain") {
  DropSchedule<> schedule({1, 1, 1});
  schedule.set_drop_rates(std::vector<double>{0, 1, 0.5});
  std::uint64_t third = 0;
  const std::uint64_t steps = 20000;
  for (std::uint64_t step = 0; step < steps; ++step) {
    const DropPlan plan = schedule.plan(step);
    REQUIRE(plan.kept(0));
    REQUIRE(plan.dropped(1));
    third += plan.dropped(2);
  }
  CHECK(dropbp_test::frequency_is_plausible(third, steps, 0.5, 16));
}

TEST_CASE("draw fills an existing plan with the result of plan") {
  const DropSchedule<AtLeastTargetSampling> schedule(std::vector<double>(7, 1.0), {.seed = 8});
  DropPlan plan;
  for (std::uint64_t step = 0; step < 20; ++step) {
    schedule.draw(step, 2, plan);
    CHECK(plan == schedule.plan(step, 2));
  }
}

TEST_CASE("In the warm-up rates grow from 0 step by step, and plans stay a function of the step") {
  const DropSchedule schedule(std::vector<double>(4, 1.0),
                              {.drop_rate = 0.8, .seed = 9, .warmup_steps = 4});
  CHECK(schedule.drop_rates_at(0) == std::vector<double>(4, 0.0));
  CHECK(schedule.drop_rates_at(1) == std::vector<double>(4, 0.2));
  CHECK(schedule.drop_rates_at(3) == std::vector<double>(4, 0.75 * 0.8));
  CHECK(schedule.drop_rates_at(4) == std::vector<double>(4, 0.8));
  CHECK(schedule.drop_rates()[0] == 0.8);
  CHECK(schedule.max_kept() == 4);
  const DropPlan third = schedule.plan(3);
  CHECK(schedule.plan(0).kept_count() == 4);
  CHECK(schedule.plan(3) == third);

  // After the warm-up plans equal those without one. Before, they equal those with the step's
  // rates.
  DropSchedule other(std::vector<double>(4, 1.0), {.drop_rate = 0.8, .seed = 9});
  CHECK(schedule.plan(4) == other.plan(4));
  CHECK(schedule.plan(1000) == other.plan(1000));
  other.set_drop_rates(schedule.drop_rates_at(3));
  CHECK(third == other.plan(3));

  std::uint64_t dropped = 0, n = 100'000;
  for (std::uint64_t seed = 0; seed < n; ++seed)
    dropped += DropSchedule(std::vector<double>(1, 1.0),
                            {.drop_rate = 0.8, .seed = seed, .warmup_steps = 4})
                   .plan(1)
                   .dropped(0);
  CHECK(dropbp_test::frequency_is_plausible(dropped, n, 0.2, 16));
}

TEST_CASE("Invalid groups are refused") {
  const std::vector<double> costs(3, 1.0);
  test::check_throws<std::invalid_argument>([&] { DropSchedule(costs, {.groups = {0, 1}}); },
                                            {"3", "2", "group number"});
  test::check_throws<std::invalid_argument>(
      [&] { DropSchedule(costs, {.groups = {0, 3, 0}}); },
      {"below the number of branches (3)", "branch 1 is 3", "densely"});
  test::check_throws<std::invalid_argument>([&] { DropSchedule(costs, {.groups = {4, 0, 0}}); },
                                            {"branch 0 is 4"});
  const DropSchedule schedule(costs, {.drop_rate = 1.0, .groups = {0, 2, 0}});
  CHECK(schedule.max_kept(0) == 0);
  CHECK(schedule.max_kept(2) == 0);
  test::check_throws<std::invalid_argument>([&] { schedule.max_kept(1); },
                                            {"group 1 has none", "DropOptions::groups"});
}

TEST_CASE("A common rate sets the target; separate rates set it to their mean by cost") {
  DropSchedule<> schedule({1, 3}, {.drop_rate = 0.25});
  CHECK(to_vector(schedule.drop_rates()) == std::vector<double>{0.25, 0.25});
  schedule.set_drop_rate(0.75);
  CHECK(schedule.drop_rate() == 0.75);
  CHECK(to_vector(schedule.drop_rates()) == std::vector<double>{0.75, 0.75});
  schedule.set_drop_rates(std::vector<double>{1.0, 0.0});
  CHECK(schedule.drop_rate() == 0.25);
  schedule.set_drop_rates(schedule.drop_rates());  // the argument is the schedule's own array
  CHECK(to_vector(schedule.drop_rates()) == std::vector<double>{1.0, 0.0});
}

TEST_CASE("The mean of equal rates is exact, so that a sampler by count drops no more than asked") {
  for (std::size_t size = 1; size <= 100; ++size) {
    DropSchedule<AtLeastTargetSampling> schedule(std::vector<double>(size, 3.7));
    for (std::size_t k = 0; k <= size; ++k) {
      const double rate = static_cast<double>(k) / static_cast<double>(size);
      schedule.set_drop_rates(std::vector<double>(size, rate));
      REQUIRE(schedule.drop_rate() == rate);
    }
  }
}

TEST_CASE("Allocation keeps the budget") {
  DropSchedule<> schedule({1, 1, 2}, {.drop_rate = 0.5});
  schedule.allocate(std::vector<double>{1, 2, 3}, GreedyAllocation{});
  CHECK(schedule.drop_rate() == 0.5);
  double kept = 0.0;
  for (std::size_t i = 0; i < 3; ++i)
    kept += schedule.costs()[i] * (1.0 - schedule.drop_rates()[i]);
  CHECK(kept <= 2.0 + 1e-6);
  schedule.allocate(std::vector<double>{1, 2, 3}, UniformAllocation{});
  CHECK(to_vector(schedule.drop_rates()) == std::vector<double>{0.5, 0.5, 0.5});
}

TEST_CASE("Sensitivities may be as small as 0") {
  DropSchedule<> schedule({1, 1, 1}, {.drop_rate = 0.5});
  schedule.allocate(std::vector<double>{0.0, 0.5, 0x1p-1000}, GreedyAllocation{});
  CHECK(schedule.drop_rates()[0] > 0.0);
  CHECK(schedule.drop_rates()[1] == 0.0);
  CHECK(schedule.drop_rates()[2] > 0.0);
}

TEST_CASE("The gradient scale of a branch is 1 / (1 - p), and 1 where it is always dropped") {
  std::vector<double> scales;
  DropSchedule<> schedule({1, 1, 1, 1},
                          {.gradient_scaling = dropbp::GradientScaling::inverse_keep_rate});
  schedule.set_drop_rates(std::vector<double>{0.0, 0.5, 0.75, 1.0});
  schedule.gradient_scales(0, scales);
  CHECK(scales == std::vector<double>{1.0, 2.0, 4.0, 1.0});

  DropSchedule<> warm({1, 1}, {.drop_rate = 0.75,
                               .gradient_scaling = dropbp::GradientScaling::inverse_keep_rate,
                               .warmup_steps = 3});
  warm.gradient_scales(1, scales);
  CHECK(scales == std::vector<double>(2, 1.0 / (1.0 - warm.drop_rates_at(1)[0])));
  CHECK(scales[0] > 1.0);
  CHECK(scales[0] < 4.0);
  warm.gradient_scales(3, scales);
  CHECK(scales == std::vector<double>{4.0, 4.0});
}

TEST_CASE("A refused allocation does not change rates or plans") {
  DropSchedule<> schedule({1, 1, 2}, {.drop_rate = 0.5, .seed = 2});
  schedule.allocate(std::vector<double>{1, 2, 3}, GreedyAllocation{});
  const std::vector<double> before = to_vector(schedule.drop_rates());
  const DropPlan plan = schedule.plan(3);
  for (const std::vector<double>& bad : {std::vector<double>{1, 2},
                                         {1, 2, 3, 4},
                                         {1, -1, 1},
                                         {1, not_a_number, 1},
                                         {1, 1, infinity}})
    CHECK_THROWS_AS(schedule.allocate(bad, GreedyAllocation{}), std::invalid_argument);
  CHECK(contains(invalid_argument_of([&] {
                   schedule.allocate(std::vector<double>{1, not_a_number, 1}, GreedyAllocation{});
                 }),
                 "that of branch 1 is nan"));
  DropSchedule<> greedy_target({1, 1, 2}, {.drop_rate = 0.95, .seed = 2});
  CHECK_THROWS_AS(greedy_target.allocate(std::vector<double>{1, 2, 3}, GreedyAllocation{}),
                  std::invalid_argument);
  CHECK(to_vector(greedy_target.drop_rates()) == std::vector<double>(3, 0.95));

  struct Broken {
    std::vector<double> rates;
    std::vector<double> allocate(const dropbp::AllocationInput&) const { return rates; }
  };
  for (const std::vector<double>& bad :
       {std::vector<double>{}, {0.5, 0.5}, {0.5, 0.5, not_a_number}, {0.5, 0.5, 1.5}})
    CHECK_THROWS_AS(schedule.allocate(std::vector<double>{1, 2, 3}, Broken{bad}),
                    std::invalid_argument);
  CHECK(to_vector(schedule.drop_rates()) == before);
  CHECK(schedule.plan(3) == plan);
}

TEST_CASE("A schedule refuses invalid arguments and names the branch") {
  CHECK(contains(invalid_argument_of([] { DropSchedule<>(std::vector<double>{}); }),
                 "at least one residual branch"));
  for (const double bad : {0.0, -0.0, -1.0, not_a_number, infinity, -infinity}) {
    CHECK(
        contains(invalid_argument_of([&] { DropSchedule<>({1.0, bad}); }), "that of branch 1 is"));
    CHECK(
        contains(invalid_argument_of([&] { DropSchedule<>({bad, 1.0}); }), "that of branch 0 is"));
  }
  CHECK(contains(invalid_argument_of([] { DropSchedule<>({1.7e308, 1.7e308}); }), "finite sum"));
  for (const double bad : {-0.1, 1.1, not_a_number, infinity}) {
    CHECK(contains(invalid_argument_of([&] { DropSchedule<>({1.0}, {.drop_rate = bad}); }),
                   "drop_rate must lie in [0, 1]"));
    DropSchedule<> schedule({1.0, 1.0}, {.seed = 4});
    const DropPlan plan = schedule.plan(1);
    CHECK_THROWS_AS(schedule.set_drop_rate(bad), std::invalid_argument);
    CHECK(contains(
        invalid_argument_of([&] { schedule.set_drop_rates(std::vector<double>{0.5, bad}); }),
        "the drop rate of branch 1"));
    CHECK(contains(
        invalid_argument_of([&] { schedule.set_drop_rates(std::vector<double>{bad, 0.5}); }),
        "the drop rate of branch 0"));
    CHECK_THROWS_AS(schedule.set_drop_rates(std::vector<double>{0.5}), std::invalid_argument);
    CHECK_THROWS_AS(schedule.set_costs(std::vector<double>{1.0, bad == 1.1        ? 0.0
                                                                : bad == infinity ? bad
                                                                                  : -1.0}),
                    std::invalid_argument);
    CHECK_THROWS_AS(schedule.set_costs(std::vector<double>{1.0}), std::invalid_argument);
    CHECK_THROWS_AS(schedule.restore(9, PlanPer::step, bad, std::vector<double>{0.5, 0.5}),
                    std::invalid_argument);
    CHECK_THROWS_AS(schedule.restore(9, PlanPer::step, 0.5, std::vector<double>{0.5, bad}),
                    std::invalid_argument);
    CHECK_THROWS_AS(schedule.restore(9, PlanPer::step, 0.5, std::vector<double>{0.5}),
                    std::invalid_argument);
    CHECK(schedule.plan(1) == plan);
    CHECK(schedule.options().seed == 4);
    CHECK(schedule.total_cost() == 2.0);
  }
}

TEST_CASE("By default plans have seed 0 and rates of a half") {
  CHECK(dropbp::DropOptions{}.seed == 0);
  CHECK(dropbp::DropOptions{}.drop_rate == 0.5);
  const std::vector<double> costs(64, 1.0);
  const DropPlan plan = DropSchedule<>(costs).plan(3);
  CHECK(plan == DropSchedule<>(costs, {.drop_rate = 0.5, .seed = 0}).plan(3));
  CHECK(plan != DropSchedule<>(costs, {.drop_rate = 0.5, .seed = 1}).plan(3));
}

TEST_CASE(
    "The mean rate does not depend on the unit of costs; costs that some builds flush to 0 are "
    "refused") {
  const std::vector<double> rates{0x1p-60, 0.3, 0.7, 1.0};
  DropSchedule<> schedule({4.0, 3.0, 2.0, 1.0});
  schedule.set_drop_rates(rates);
  for (const double unit : {0x1p-1022, 0x1p-500, 0x1p1020}) {
    DropSchedule<> other({4.0 * unit, 3.0 * unit, 2.0 * unit, unit});
    other.set_drop_rates(rates);
    CHECK(other.drop_rate() == schedule.drop_rate());
  }
  for (const double bad : {std::numeric_limits<double>::denorm_min(), 2e-308})
    CHECK(
        contains(invalid_argument_of([&] { DropSchedule<>({1.0, bad}); }), "that of branch 1 is"));
}

TEST_CASE("Micro-steps beyond 24 bits are refused") {
  const DropSchedule<> schedule({1.0});
  CHECK_NOTHROW(schedule.plan(0, 0xFFFFFF));
  CHECK_THROWS_AS(schedule.plan(0, 0x1000000), std::invalid_argument);
}

TEST_CASE("New costs keep the rates and change the budget") {
  DropSchedule<> schedule({1, 1}, {.drop_rate = 0.5});
  schedule.set_costs(std::vector<double>{1, 3});
  CHECK(schedule.total_cost() == 4.0);
  CHECK(to_vector(schedule.drop_rates()) == std::vector<double>{0.5, 0.5});
  schedule.set_drop_rates(std::vector<double>{1, 0});
  CHECK(schedule.drop_rate() == 0.25);
}

TEST_CASE("Rates that differ in one bit give different fingerprints") {
  DropSchedule<> schedule({1, 1}, {.drop_rate = 0.5});
  const std::uint64_t before = schedule.plan(0).fingerprint();
  schedule.set_drop_rate(std::nextafter(0.5, 1.0));
  CHECK(schedule.plan(0).fingerprint() != before);
  schedule.set_drop_rate(0.5);
  CHECK(schedule.plan(0).fingerprint() == before);
}

TEST_CASE("A restored schedule draws the same plans") {
  DropSchedule<> schedule(std::vector<double>(9, 1.0),
                          {.drop_rate = 0.3, .seed = 77, .plan_per = PlanPer::step});
  schedule.set_drop_rates(std::vector<double>{0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 1});
  DropSchedule<> other(std::vector<double>(9, 1.0));
  other.restore(77, PlanPer::step, schedule.drop_rate(), schedule.drop_rates());
  for (std::uint64_t step = 0; step < 100; ++step)
    REQUIRE(other.plan(step, 1) == schedule.plan(step, 1));
  CHECK(other.drop_rate() == schedule.drop_rate());
}

TEST_CASE(
    "The learning rate scale of a branch is 1 / (1 - p), and 1 for a branch that never gets a "
    "step") {
  DropSchedule<> schedule({1.0, 1.0, 1.0, 1.0});
  schedule.set_drop_rates(std::vector<double>{0.0, 0.5, 0.75, 1.0});
  CHECK(schedule.learning_rate_scale(0) == 1.0);
  CHECK(schedule.learning_rate_scale(1) == 2.0);
  CHECK(schedule.learning_rate_scale(2) == 4.0);
  CHECK(schedule.learning_rate_scale(3) == 1.0);
  CHECK(contains(invalid_argument_of([&] { schedule.learning_rate_scale(4); }),
                 "below 4, but it is 4"));
}

TEST_CASE("A schedule without branches throws until another is assigned to it") {
  DropSchedule<> schedule;
  CHECK(schedule.size() == 0);
  CHECK(schedule.drop_rates().empty());
  const auto refused = [&](auto call) {
    test::check_throws<std::logic_error>(
        [&] { call(schedule); },
        {"must be made for the branches of a model", "this one was default-constructed",
         "assign DropSchedule(costs, options) to it"});
  };
  refused([](auto& s) { static_cast<void>(s.plan(0)); });
  refused([](auto& s) { static_cast<void>(s.max_kept()); });
  refused([](auto& s) { static_cast<void>(s.learning_rate_scale(0)); });
  refused([](auto& s) { s.set_drop_rate(0.5); });
  refused([](auto& s) { s.set_drop_rates({}); });
  refused([](auto& s) { s.set_costs({}); });
  refused([](auto& s) { s.allocate({}, UniformAllocation{}); });
  refused([](auto& s) { s.restore(1, PlanPer::step, 0.5, {}); });
  schedule = DropSchedule<>({1.0, 1.0}, {.drop_rate = 0.5, .seed = 3});
  CHECK(schedule.plan(4) == DropSchedule<>({1.0, 1.0}, {.drop_rate = 0.5, .seed = 3}).plan(4));
}

TEST_CASE("slot_count has room for the scratch of dropped branches, where one may be dropped") {
  const auto slots = [](double rate, std::uint64_t warmup_steps, std::uint32_t group) {
    return DropSchedule(std::vector<double>(9, 1.0),
                        {.drop_rate = rate,
                         .warmup_steps = warmup_steps,
                         .groups = {0, 1, 0, 1, 0, 1, 0, 1, 2}},
                        dropbp::FixedBudgetSampling{})
        .slot_count(group);
  };
  CHECK(slots(0.5, 0, 0) == 3);
  CHECK(slots(0.75, 0, 1) == 2);
  CHECK(slots(1.0, 0, 1) == 1);
  CHECK(slots(0.0, 0, 0) == 4);
  CHECK(slots(0.0, 0, 2) == 1);
  // A warm-up begins with all, however short it is.
  for (const std::uint64_t warmup_steps : {1u, 3u}) CHECK(slots(0.5, warmup_steps, 0) == 4);
  CHECK_THROWS_AS(slots(0.5, 0, 3), std::invalid_argument);
}
