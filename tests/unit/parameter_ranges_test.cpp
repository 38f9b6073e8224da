// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Flat parameters: what a step trains, element by element, and what is refused.
#include "dropbp/parameter_ranges.hpp"

#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "dropbp/schedule.hpp"
#include "dropbp/state_text.hpp"
#include "support/catch.hpp"
#include "support/throws.hpp"

using dropbp::DropPlan;
using dropbp::ParameterRanges;
using dropbp::ParameterTensor;
using dropbp::TrainedRange;
using test::check_throws;

namespace {

constexpr std::size_t always = ParameterRanges::always, never = ParameterRanges::never;

// Slow and simple: the owner of each element, and how often each was trained.
struct ByElement {
  std::vector<std::size_t> owner;
  std::vector<std::uint64_t> updates;
  std::vector<std::uint64_t> now;  // micro-steps

  explicit ByElement(std::size_t parameters)
      : owner(parameters, always), updates(parameters), now(parameters) {}
  void add(const ParameterTensor& tensor) {
    for (std::size_t i = 0; i < tensor.layers * tensor.count; ++i)
      owner[tensor.offset + i] = tensor.branch >= never
                                     ? tensor.branch
                                     : tensor.branch + i / tensor.count * tensor.branch_step;
  }
  void step(const std::vector<DropPlan>& plans) {
    for (std::size_t i = 0; i < owner.size(); ++i) {
      now[i] = 0;
      for (const DropPlan& plan : plans)
        now[i] += owner[i] == always || (owner[i] < plan.size() && plan.kept(owner[i]));
      updates[i] += now[i] != 0;
    }
  }
};

void check_same(std::span<const TrainedRange> ranges, const ByElement& expected) {
  std::vector<std::uint64_t> now(expected.owner.size());
  std::size_t end = 0;
  bool agrees = true;
  for (const TrainedRange& range : ranges) {
    agrees = agrees && range.offset >= end && range.count > 0;
    end = range.offset + range.count;
    REQUIRE(end <= now.size());
    for (std::size_t i = range.offset; i < end; ++i) {
      now[i] = range.micro_steps;
      agrees = agrees && range.branch == expected.owner[i] && range.updates == expected.updates[i];
    }
  }
  CHECK(agrees);
  CHECK(now == expected.now);
}

DropPlan plan_of(std::vector<std::uint8_t> dropped, std::uint64_t step = 0) {
  return DropPlan(dropped, {.step = step});
}

}  // namespace

TEST_CASE("parameter_ranges: random layouts, plans and micro-steps agree element by element") {
  std::mt19937 random(3);
  for (int round = 0; round < 40; ++round) {
    const std::size_t layers = 1 + random() % 4, branches = 2 * layers;
    // Tensors in order, with gaps, some frozen or always trained.
    std::vector<ParameterTensor> tensors;
    std::size_t end = random() % 3;
    for (int t = 0; t < 7; ++t) {
      ParameterTensor tensor{.branch = random() % 2, .offset = end, .count = 1 + random() % 5};
      if (random() % 3 != 0) tensor.layers = layers, tensor.branch_step = 2;
      if (random() % 5 == 0) tensor.branch = always;
      if (random() % 5 == 0) tensor.branch = never;
      end += tensor.layers * tensor.count + random() % 3;
      tensors.push_back(tensor);
    }
    const std::size_t parameters = end + random() % 3;
    ParameterRanges ranges(branches, parameters);
    ByElement expected(parameters);
    while (!tensors.empty()) {  // in any order
      const std::size_t which = random() % tensors.size();
      const ParameterTensor tensor = tensors[which];
      CHECK(ranges.add(tensor) == tensor.offset + tensor.layers * tensor.count);
      expected.add(tensor);
      tensors.erase(tensors.begin() + static_cast<std::ptrdiff_t>(which));
    }
    const dropbp::DropSchedule schedule(std::vector<double>(branches, 1.0),
                                        {.drop_rate = 0.6, .seed = random()});
    for (std::uint64_t step = 0; step < 6; ++step) {
      std::vector<DropPlan> plans;
      for (std::uint32_t k = 0; k <= random() % 3; ++k) {
        plans.push_back(schedule.plan(step, k));
        ranges.observe(plans.back());
      }
      expected.step(plans);
      check_same(ranges.end_step(), expected);
    }
  }
}

TEST_CASE("parameter_ranges: a skipped step is not counted") {
  ParameterRanges ranges(1, 4);
  ranges.add({.branch = 0, .offset = 0, .count = 2});
  ranges.observe(plan_of({0}));
  ranges.skip_step();
  check_throws<std::logic_error>([&] { ranges.end_step(); },
                                 {"none was observed", "observe(plan)"});
  // What it kept is forgotten too.
  ranges.observe(plan_of({1}, 1));
  const auto trained = ranges.end_step();
  REQUIRE(trained.size() == 1);
  CHECK(trained[0].branch == always);
  CHECK(trained[0].offset == 2);
  CHECK(trained[0].updates == 1);
  CHECK(ranges.updates(0) == 0);
  CHECK(ranges.updates(always) == 1);
}

TEST_CASE("parameter_ranges: an empty array trains nothing") {
  ParameterRanges ranges(1, 0);
  ranges.observe(plan_of({0}));
  CHECK(ranges.end_step().empty());
}

TEST_CASE("parameter_ranges: wrong and overlapping tensors are refused, and nothing changes") {
  ParameterRanges ranges(4, 40);
  ranges.add({.branch = 0, .offset = 10, .count = 5, .layers = 2, .branch_step = 2});
  const auto refused = [&](const ParameterTensor& tensor,
                           std::initializer_list<std::string_view> parts) {
    check_throws<std::invalid_argument>([&] { ranges.add(tensor); }, parts);
  };
  constexpr std::size_t huge = std::numeric_limits<std::size_t>::max();
  refused({.branch = 1, .offset = 19, .count = 1}, {"two tensors", "19 to 19", "15 to 19"});
  refused({.branch = 1, .offset = 5, .count = 6}, {"5 to 10", "10 to 14"});
  refused({.branch = 1, .offset = 0, .count = 40}, {"two tensors"});
  refused({.branch = 1, .offset = 12, .count = 1}, {"two tensors"});
  refused({.branch = always, .offset = 10, .count = 5}, {"two tensors"});
  refused({.branch = 1, .offset = 20, .count = 0}, {"must have elements"});
  refused({.branch = 1, .offset = 20, .count = 1, .layers = 0}, {"must have elements"});
  refused({.branch = 1, .offset = 20, .count = 21}, {"within the array of 40", "bytes"});
  refused({.branch = 1, .offset = 40, .count = 1}, {"within the array of 40"});
  refused({.branch = 1, .offset = huge, .count = 1}, {"within the array of 40"});
  refused({.branch = 1, .offset = 20, .count = huge / 2 + 1, .layers = 2}, {"within the array"});
  refused({.branch = 4, .offset = 20, .count = 1}, {"below 4", "it is 4"});
  refused({.branch = 1, .offset = 20, .count = 1, .layers = 3, .branch_step = 2}, {"it is 5"});
  refused({.branch = 0, .offset = 20, .count = 1, .layers = 2, .branch_step = 4}, {"it is 4"});
  CHECK(ranges.add({.branch = 1, .offset = 20, .count = 1, .layers = 2, .branch_step = 2}) == 22);
  ranges.observe(plan_of({0, 0, 0, 0}));
  CHECK(ranges.end_step().size() == 6);
}

TEST_CASE("parameter_ranges: plans of another model or step are refused") {
  ParameterRanges ranges(2, 4);
  check_throws<std::invalid_argument>([&] { ranges.observe(plan_of({0})); }, {"2 branches"});
  check_throws<std::logic_error>([&] { ranges.observe(DropPlan()); },
                                 {"must be drawn before", "default-constructed"});
  check_throws<std::invalid_argument>([&] { ranges.updates(2); }, {"below 2"});
  ranges.observe(plan_of({0, 1}, 7));
  check_throws<std::logic_error>([&] { ranges.observe(plan_of({0, 0}, 8)); },
                                 {"step 8 follows step 7", "end_step"});
  static_cast<void>(ranges.end_step());
  CHECK(ranges.updates(0) == 1);
  CHECK(ranges.updates(1) == 0);
  ranges.observe(plan_of({0, 0}, 8));
}

TEST_CASE("parameter_ranges: a restored state goes on counting") {
  ParameterRanges ranges(2, 4), other(2, 4);
  for (ParameterRanges* one : {&ranges, &other})
    one->add({.branch = 0, .offset = 0, .count = 2, .layers = 2});
  for (std::uint64_t step = 0; step < 5; ++step) {
    ranges.observe(plan_of({step % 2 == 0, 0}, step));
    static_cast<void>(ranges.end_step());
  }
  const std::string text = to_text(ranges.state());
  other.restore(dropbp::ranges_state_from_text(text));
  CHECK(other.state() == ranges.state());
  CHECK(other.updates(0) == 2);
  CHECK(other.steps() == 5);
  check_throws<std::invalid_argument>([&] { other.restore({.steps = 1, .updates = {2, 0}}); },
                                      {"branch 0 has 2"});
  check_throws<std::invalid_argument>([&] { other.restore({.steps = 1, .updates = {0}}); },
                                      {"2 branches"});
  CHECK(other.state() == ranges.state());
  for (std::size_t length = 0; length + 1 < text.size(); ++length)
    CHECK_THROWS_AS(dropbp::ranges_state_from_text(text.substr(0, length)), std::invalid_argument);
  check_throws<std::invalid_argument>([&] { dropbp::ranges_state_from_text(text + "more"); },
                                      {"nothing after"});
}

TEST_CASE("state_text: a running sensitivity comes back from its text") {
  dropbp::RunningSensitivity running(3), other(3);
  for (int step = 0; step < 3; ++step) {
    running.observe(0, 1.0 / 3.0, 0.7);
    if (step == 1) running.observe(2, 1e-300, 1.1);
    running.end_step();
  }
  const std::string text = to_text(running.state());
  CHECK(dropbp::running_state_from_text(text) == running.state());
  other.restore(dropbp::running_state_from_text(text));
  CHECK(other == running);
  for (std::size_t length = 0; length + 1 < text.size(); ++length)
    CHECK_THROWS_AS(dropbp::running_state_from_text(text.substr(0, length)), std::invalid_argument);
  dropbp::RunningSensitivity::State uneven = running.state();
  uneven.last.pop_back();
  check_throws<std::invalid_argument>([&] { static_cast<void>(to_text(uneven)); },
                                      {"3 branches", "2 were given"});
}
