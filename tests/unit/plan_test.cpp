// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A plan answers every question about its mask, and its fingerprint distinguishes plans.
#include "dropbp/plan.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <set>
#include <stdexcept>
#include <vector>

#include "support/catch.hpp"
#include "support/throws.hpp"

using dropbp::DropPlan;

namespace {

std::vector<std::uint8_t> mask_of(unsigned bits, std::size_t size) {
  std::vector<std::uint8_t> mask;
  for (std::size_t i = 0; i < size; ++i)
    mask.push_back(static_cast<std::uint8_t>((bits >> i) & 1u));
  return mask;
}

}  // namespace

TEST_CASE("A plan that was never drawn says so when it is asked") {
  const DropPlan plan;
  for (const auto& ask : std::vector<std::function<void()>>{
           [&] { plan.dropped(0); }, [&] { plan.kept(0); }, [&] { plan.slot(0); },
           [&] { plan.slot_or(0, 1); }, [&] { plan.input_gradient_needed(0); }})
    test::check_throws<std::logic_error>(
        ask, {"must be drawn before", "default-constructed", "DropSchedule::plan(step)"});
}

TEST_CASE("slot_or is the slot of a kept branch and the scratch of a dropped one") {
  const DropPlan plan(mask_of(0b0101, 4));
  CHECK(plan.slot_or(0, 9) == 9);
  CHECK(plan.slot_or(1, 9) == 0);
  CHECK(plan.slot_or(2, 9) == 9);
  CHECK(plan.slot_or(3, 9) == 1);
  CHECK_THROWS_AS(plan.slot_or(4, 9), std::invalid_argument);
  CHECK(plan.slot_or(3, 2) == 1);
  // The arena is of rates that keep fewer: branch 3 would save where branches 0 and 2 compute.
  test::check_throws<std::invalid_argument>(
      [&] { plan.slot_or(3, 1); },
      {"a slot for each kept branch", "branch 3 has slot 1, and the scratch is slot 1"});
  CHECK_THROWS_AS(plan.slot_or(3, 0), std::invalid_argument);
  // Without dropped branches none computes in the scratch.
  const DropPlan all(mask_of(0, 2));
  CHECK(all.slot_or(1, 1) == 1);
  CHECK_THROWS_AS(all.slot_or(1, 0), std::invalid_argument);
}

TEST_CASE("Every query of a plan follows from its mask") {
  for (std::size_t size = 1; size <= 8; ++size)
    for (unsigned bits = 0; bits < (1u << size); ++bits)
      for (const bool trainable_below : {true, false}) {
        const DropPlan plan(mask_of(bits, size), trainable_below, 5, 3);
        std::size_t kept = 0, lowest = size;
        bool good = plan.size() == size && plan.step() == 5 && plan.micro_step() == 3;
        for (std::size_t i = 0; i < size; ++i) {
          const bool dropped = ((bits >> i) & 1u) != 0;
          good = good && plan.dropped(i) == dropped && plan.kept(i) != dropped;
          if (dropped) {
            good = good && !plan.input_gradient_needed(i);
            CHECK_THROWS_AS(plan.slot(i), std::invalid_argument);
            continue;
          }
          if (lowest == size) lowest = i;
          good = good && plan.slot(i) == kept++;
          good = good && plan.input_gradient_needed(i) == (trainable_below || i != lowest);
        }
        good = good && plan.kept_count() == kept && plan.dropped_count() == size - kept;
        good = good && plan.all_dropped() == (kept == 0) && plan.lowest_kept() == lowest;
        good = good && plan.backward_needed() == (trainable_below || kept != 0);
        CAPTURE(size, bits, trainable_below);
        REQUIRE(good);
      }
}

TEST_CASE(
    "A branch is dropped if neither it nor a kept branch below it trains, and nothing below the "
    "branches does") {
  for (std::size_t size = 1; size <= 5; ++size)
    for (unsigned bits = 0; bits < (1u << size); ++bits)
      for (unsigned training = 0; training < (1u << size); ++training)
        for (const bool trainable_below : {true, false}) {
          const std::vector<std::uint8_t> mask = mask_of(bits, size),
                                          trains = mask_of(training, size);
          const DropPlan plan(mask, {.trainable_below = trainable_below, .trainable = trains});
          std::vector<std::uint8_t> expected = mask;
          bool used = trainable_below;  // the gradient of the input below all branches
          for (std::size_t i = 0; i < size; ++i) {
            used = used || (mask[i] == 0 && trains[i] != 0);
            if (!used) expected[i] = 1;
          }
          CAPTURE(size, bits, training, trainable_below);
          REQUIRE(plan == DropPlan(expected, trainable_below));
          REQUIRE(plan.fingerprint() == DropPlan(expected, trainable_below).fingerprint());
        }
  CHECK_THROWS_AS(DropPlan(mask_of(1, 3), {.trainable = mask_of(1, 2)}), std::invalid_argument);
}

TEST_CASE("Every query refuses a branch out of range") {
  const DropPlan plan(mask_of(1, 3));
  CHECK_THROWS_AS(plan.dropped(3), std::invalid_argument);
  CHECK_THROWS_AS(plan.kept(3), std::invalid_argument);
  CHECK_THROWS_AS(plan.slot(3), std::invalid_argument);
  CHECK_THROWS_AS(plan.input_gradient_needed(static_cast<std::size_t>(-1)), std::invalid_argument);
  CHECK_THROWS_AS(DropPlan().dropped(0), std::logic_error);
}

TEST_CASE("Any non-zero byte of a mask drops its branch") {
  const std::vector<std::uint8_t> mask{0, 1, 2, 255};
  const DropPlan plan(mask);
  CHECK(plan.kept(0));
  CHECK(plan.dropped_count() == 3);
  CHECK(plan == DropPlan(mask_of(0b1110, 4)));
}

TEST_CASE("Fingerprints of all plans of up to 12 branches differ") {
  std::set<std::uint64_t> seen;
  std::size_t plans = 0;
  for (std::size_t size = 0; size <= 12; ++size)
    for (unsigned bits = 0; bits < (1u << size); ++bits, ++plans)
      seen.insert(DropPlan(mask_of(bits, size)).fingerprint());
  CHECK(seen.size() == plans);
}

TEST_CASE("A fingerprint depends on step, micro-step, rates and every single decision") {
  std::vector<std::uint8_t> mask(200, 0);
  std::set<std::uint64_t> seen{DropPlan(mask, true, 1, 2, 3).fingerprint()};
  seen.insert(DropPlan(mask, false, 1, 2, 3).fingerprint());
  seen.insert(DropPlan(mask, true, 2, 2, 3).fingerprint());
  seen.insert(DropPlan(mask, true, 1, 3, 3).fingerprint());
  seen.insert(DropPlan(mask, true, 1, 2, 4).fingerprint());
  seen.insert(DropPlan(std::vector<std::uint8_t>(199, 0), true, 1, 2, 3).fingerprint());
  for (std::size_t i = 0; i < mask.size(); ++i) {
    mask[i] = 1;
    seen.insert(DropPlan(mask, true, 1, 2, 3).fingerprint());
    mask[i] = 0;
  }
  CHECK(seen.size() == 206);
  CHECK(DropPlan(mask, true, 1, 2, 3).fingerprint() == DropPlan(mask, true, 1, 2, 3).fingerprint());
}

TEST_CASE("Fingerprints are pinned, since ranks with different builds compare them") {
  CHECK(DropPlan().fingerprint() == 0xa5d3758b95b92366u);
  CHECK(DropPlan(mask_of(0b1011001, 7), true, 12, 3, 45).fingerprint() == 0xc8fdd2f912f07c17u);
  CHECK(DropPlan(std::vector<std::uint8_t>(130, 1), false, ~0ull, 0xffffff, ~0ull).fingerprint() ==
        0x201f04a2a05d217bu);
}

TEST_CASE("A redrawn plan equals a new one, independent of its earlier content") {
  DropPlan plan(std::vector<std::uint8_t>(9, 1), false, 4, 4, 4);
  const std::vector<std::uint8_t> mask = mask_of(0b010, 3);
  dropbp::detail::PlanBuilder::redraw(
      plan, 3, {.trainable_below = true, .step = 1, .micro_step = 2, .rates_hash = 3},
      [&](std::span<std::uint8_t> dropped, std::span<std::uint32_t> work) {
        CHECK(work.size() == 3);
        for (std::size_t i = 0; i < 3; ++i) dropped[i] = mask[i];
      });
  CHECK(plan == DropPlan(mask, true, 1, 2, 3));
  CHECK_FALSE(plan == DropPlan(mask, true, 1, 2, 4));
}

TEST_CASE("Slots are dense within each group") {
  const std::vector<std::uint8_t> mask = {0, 1, 0, 0, 1, 0, 0, 0};
  const std::vector<std::uint32_t> groups = {0, 1, 0, 1, 0, 1, 0, 1};
  const DropPlan plan(mask, true, 0, 0, 0, groups);
  CHECK(plan.slot(0) == 0);
  CHECK(plan.slot(2) == 1);
  CHECK(plan.slot(3) == 0);
  CHECK(plan.slot(5) == 1);
  CHECK(plan.slot(6) == 2);
  CHECK(plan.slot(7) == 2);
  CHECK(plan.kept_count() == 6);
  CHECK(plan.lowest_kept() == 0);
  CHECK_THROWS_AS(DropPlan(mask, true, 0, 0, 0, std::vector<std::uint32_t>{0, 1}),
                  std::invalid_argument);
}

TEST_CASE("A plan that keeps or drops all equals the one of such a mask") {
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{130}}) {
    const DropPlan kept = DropPlan::keep_all(size, 7), dropped = DropPlan::drop_all(size, 7);
    CHECK(kept == DropPlan(std::vector<std::uint8_t>(size, 0), true, 7));
    CHECK(dropped == DropPlan(std::vector<std::uint8_t>(size, 1), true, 7));
    CHECK(kept.kept_count() == size);
    CHECK(dropped.dropped_count() == size);
    CHECK(dropped.all_dropped());
    CHECK(DropPlan::keep_all(size).step() == 0);
    CHECK(DropPlan::drop_all(size).step() == 0);
  }
}
