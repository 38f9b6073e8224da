// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The C interface gives the answers of the C++ classes behind it, from any thread.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "dropbp/dropbp.h"
#include "dropbp/dropbp.hpp"
#include "support/catch.hpp"

namespace {

template <auto destroy>
struct Destroy {
  void operator()(auto* handle) const { destroy(handle); }
};
using Schedule = std::unique_ptr<dropbp_schedule, Destroy<dropbp_schedule_destroy>>;
using Plan = std::unique_ptr<dropbp_plan, Destroy<dropbp_plan_destroy>>;
using Running = std::unique_ptr<dropbp_running, Destroy<dropbp_running_destroy>>;

const std::vector<double> costs{1.0, 3.0, 1.0, 3.0, 1.0, 3.0, 1.0, 3.0, 2.0};
const std::vector<std::uint32_t> groups{0, 1, 0, 1, 0, 1, 0, 1, 2};
const std::vector<std::uint8_t> trainable{0, 1, 1, 1, 1, 1, 0, 1, 1};
const std::vector<std::uint32_t> parents{0, 1, 1, 3, 4, 5, 5, 7, 8};
const std::vector<double> bytes{5.0, 7.0, 5.0, 7.0, 5.0, 7.0, 5.0, 7.0, 1.0};

// Options with nothing at its default, in both languages.
dropbp::DropOptions cpp_options() {
  return {.drop_rate = 0.4,
          .seed = 11,
          .trainable_below = false,
          .plan_per = dropbp::PlanPer::step,
          .gradient_scaling = dropbp::GradientScaling::inverse_keep_rate,
          .warmup_steps = 5,
          .groups = groups,
          .trainable = trainable,
          .parents = parents};
}
dropbp_options c_options(std::int32_t sampling) {
  dropbp_options options = dropbp_default_options();
  options.drop_rate = 0.4;
  options.seed = 11;
  options.trainable_below = 0;
  options.plan_per_step = 1;
  options.gradient_scaling = 1;
  options.warmup_steps = 5;
  options.groups = groups.data();
  options.trainable = trainable.data();
  options.parents = parents.data();
  options.sampling = sampling;
  options.weigh = DROPBP_BYTES;
  options.bytes = bytes.data();
  options.cap = 30.0;
  return options;
}

void check_same(const dropbp::DropPlan& plan, const dropbp_plan* other) {
  REQUIRE(dropbp_plan_branches(other) == plan.size());
  CHECK(dropbp_plan_fingerprint(other) == plan.fingerprint());
  CHECK(dropbp_plan_all_dropped(other) == int{plan.all_dropped()});
  CHECK(dropbp_plan_backward_needed(other) == int{plan.backward_needed()});
  CHECK(dropbp_plan_lowest_kept(other) == plan.lowest_kept());
  for (std::size_t i = 0; i < plan.size(); ++i) {
    CHECK(dropbp_plan_dropped(other, i) == int{plan.dropped(i)});
    CHECK(dropbp_plan_input_gradient_needed(other, i) == int{plan.input_gradient_needed(i)});
    if (plan.kept(i)) CHECK(dropbp_plan_slot(other, i) == plan.slot(i));
    CHECK(dropbp_plan_slot_or(other, i, 77) == plan.slot_or(i, 77));
  }
}

template <class Sampling>
void check_same_schedule(std::int32_t number, const Sampling& sampling) {
  dropbp::DropSchedule<Sampling> schedule(costs, cpp_options(), sampling);
  const dropbp_options options = c_options(number);
  const Schedule other(dropbp_schedule_create(costs.size(), costs.data(), &options));
  const Plan plan(dropbp_plan_create());
  REQUIRE(other != nullptr);
  const std::vector<double> sensitivities{1, 2, 3, 4, 5, 6, 7, 8, 9};
  for (const bool allocates : {false, true}) {
    if (allocates) {
      schedule.allocate(sensitivities, dropbp::OptimalAllocation<>{.min_rates = {0.05}});
      REQUIRE(dropbp_schedule_allocate(other.get(), sensitivities.data(), DROPBP_OPTIMAL, 0.05) ==
              DROPBP_OK);
    }
    for (std::uint64_t step = 0; step < 20; ++step)
      for (std::uint32_t micro_step = 0; micro_step < 2; ++micro_step) {
        REQUIRE(dropbp_plan_draw(plan.get(), other.get(), step, micro_step) == DROPBP_OK);
        check_same(schedule.plan(step, micro_step), plan.get());
      }
    std::vector<double> scales;
    schedule.gradient_scales(2, scales);
    for (std::size_t i = 0; i < costs.size(); ++i) {
      CHECK(dropbp_schedule_branch_drop_rate(other.get(), i) == schedule.drop_rates()[i]);
      CHECK(dropbp_schedule_gradient_scale(other.get(), 2, i) == scales[i]);
      CHECK(dropbp_schedule_learning_rate_scale(other.get(), i) == schedule.learning_rate_scale(i));
    }
    for (std::uint32_t group = 0; group < 3; ++group) {
      CHECK(dropbp_schedule_max_kept(other.get(), group) == schedule.max_kept(group));
      CHECK(dropbp_schedule_slots(other.get(), group) == schedule.slot_count(group));
    }
  }
}

}  // namespace

TEST_CASE("c_interface: every sampling policy and option gives the plans of DropSchedule") {
  check_same_schedule(DROPBP_BERNOULLI, dropbp::BernoulliSampling{});
  check_same_schedule(DROPBP_AT_LEAST_TARGET, dropbp::AtLeastTargetSampling{});
  check_same_schedule(DROPBP_FIXED_BUDGET,
                      dropbp::FixedBudgetSampling{
                          .weigh = dropbp::BranchWeight::bytes, .bytes = bytes, .cap = 30.0});
}

TEST_CASE("c_interface: the defaults are those of DropOptions") {
  const dropbp::DropSchedule schedule(std::vector<double>(6, 1.0));
  const Schedule other(dropbp_schedule_create(6, nullptr, nullptr));
  const Plan plan(dropbp_plan_create());
  for (std::uint64_t step = 0; step < 20; ++step) {
    REQUIRE(dropbp_plan_draw(plan.get(), other.get(), step, 3) == DROPBP_OK);
    check_same(schedule.plan(step, 3), plan.get());
  }
}

TEST_CASE("c_interface: a plan of a mask is DropPlan's") {
  const dropbp_options options = c_options(DROPBP_BERNOULLI);
  const Schedule schedule(dropbp_schedule_create(costs.size(), costs.data(), &options));
  const Plan plan(dropbp_plan_create());
  const std::vector<std::uint8_t> mask{0, 1, 0, 0, 1, 0, 0, 1, 0};
  REQUIRE(dropbp_plan_set(plan.get(), schedule.get(), mask.data()) == DROPBP_OK);
  check_same(
      dropbp::DropPlan(
          mask,
          {.trainable_below = false, .groups = groups, .trainable = trainable, .parents = parents}),
      plan.get());
}

TEST_CASE("c_interface: a running sensitivity is RunningSensitivity") {
  dropbp::RunningSensitivity running(3);
  const Running other(dropbp_running_create(3));
  for (int step = 0; step < 4; ++step) {
    for (std::size_t i = 0; i < 3; i += 1 + std::size_t(step % 2)) {
      running.observe(i, 1.0 + double(i), 0.8);
      REQUIRE(dropbp_running_observe(other.get(), i, 1.0 + double(i), 0.8) == DROPBP_OK);
    }
    running.end_step();
    REQUIRE(dropbp_running_end_step(other.get()) == DROPBP_OK);
  }
  std::vector<double> sensitivities(3);
  REQUIRE(dropbp_running_sensitivities(other.get(), sensitivities.data()) == DROPBP_OK);
  CHECK(sensitivities == running.sensitivities());
}

TEST_CASE("c_interface: the text of a schedule is that of a handler's state") {
  const dropbp_options options = c_options(DROPBP_BERNOULLI);
  const Schedule schedule(dropbp_schedule_create(costs.size(), costs.data(), &options));
  std::string text(dropbp_state_to_text(schedule.get(), nullptr, nullptr, 9, nullptr, 0), ' ');
  REQUIRE(dropbp_state_to_text(schedule.get(), nullptr, nullptr, 9, text.data(), text.size() + 1) ==
          text.size());
  const dropbp::HandlerState state = dropbp::handler_state_from_text(text);
  CHECK(state.next_step == 9);
  CHECK(state.seed == 11);
  CHECK(state.plan_per == dropbp::PlanPer::step);
  CHECK(state.drop_rates == std::vector<double>(9, 0.4));
  // One byte less than is needed: nothing is written.
  std::string shorter(text.size(), '#');
  CHECK(dropbp_state_to_text(schedule.get(), nullptr, nullptr, 9, shorter.data(), text.size()) ==
        text.size());
  CHECK(shorter == std::string(text.size(), '#'));
}

TEST_CASE("c_interface: threads share a schedule, and each has its own last error") {
  const Schedule schedule(dropbp_schedule_create(64, nullptr, nullptr));
  std::vector<std::vector<std::uint64_t>> fingerprints(4);
  std::vector<std::string> errors(4);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      const Plan plan(dropbp_plan_create());
      for (std::uint64_t step = 0; step < 200; ++step)
        if (dropbp_plan_draw(plan.get(), schedule.get(), step, 0) == DROPBP_OK)
          fingerprints[t].push_back(dropbp_plan_fingerprint(plan.get()));
      const std::vector<double> rates(64, 2.0 + double(t));
      const Schedule own(dropbp_schedule_create(64, nullptr, nullptr));
      if (dropbp_schedule_set_drop_rates(own.get(), rates.data()) == DROPBP_INVALID)
        errors[t] = dropbp_last_error();
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(fingerprints[0].size() == 200);
  for (std::size_t t = 0; t < 4; ++t) {
    CHECK(fingerprints[t] == fingerprints[0]);
    CHECK(errors[t].find("it is " + std::to_string(2 + t)) != std::string::npos);
  }
}
