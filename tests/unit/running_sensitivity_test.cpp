// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

#include "dropbp/policy/running_sensitivity.hpp"

#include <cmath>
#include <cstddef>
#include <iterator>
#include <limits>
#include <stdexcept>
#include <vector>

#include "support/catch.hpp"
#include "support/throws.hpp"

using dropbp::RunningSensitivity;

namespace {

void observe_step(RunningSensitivity& running, std::vector<double> norms) {
  for (std::size_t i = 0; i < norms.size(); ++i)
    if (norms[i] >= 0.0) running.observe(i, norms[i]);
  running.end_step();
}

}  // namespace

TEST_CASE(
    "A running sensitivity is a decaying average of its observations without bias at the start") {
  RunningSensitivity running(2, 0.5);
  running.observe(0, 8.0);
  CHECK(running.sensitivities() == std::vector<double>(2, 1.0));  // until the step ends
  running.observe(0, 6.0);                                        // replaces the first
  running.observe(1, 2.0);
  running.end_step();
  CHECK(running.sensitivities() == std::vector<double>{6.0, 2.0});
  observe_step(running, {4.0, 4.0});
  CHECK(running.sensitivities() ==
        std::vector<double>{(4.0 + 0.5 * 6.0) / 1.5, (4.0 + 0.5 * 2.0) / 1.5});
  for (int i = 0; i < 100; ++i) observe_step(running, {3.0, 3.0});
  CHECK(std::abs(running.sensitivities()[0] / running.sensitivities()[1] - 1.0) < 1e-12);
}

TEST_CASE("A common factor of all branches in a step does not change a running sensitivity") {
  // The ratios are 4 : 2 : 1 in every step. Each step has another scale, and one branch is missing
  // in turn.
  RunningSensitivity running(3, 0.9);
  const double scales[] = {1e-3, 1e-6, 1e9, 3.0, 1e-200, 7.0};
  observe_step(running, {4.0, 2.0, -1.0});  // the third branch comes at another scale
  for (std::size_t step = 0; step < std::size(scales); ++step) {
    std::vector<double> norms{4.0 * scales[step], 2.0 * scales[step], 1.0 * scales[step]};
    norms[step % 3] = -1.0;  // dropped
    observe_step(running, norms);
  }
  const std::vector<double> s = running.sensitivities();
  CHECK(std::abs(s[0] / s[2] - 4.0) < 1e-12);
  CHECK(std::abs(s[1] / s[2] - 2.0) < 1e-12);
}

TEST_CASE(
    "A branch that shrinks the gradient below it gets a share of the lower branches' sensitivity") {
  RunningSensitivity running(3);
  running.observe(0, 4.0, 0.5);  // nothing below
  running.observe(1, 2.0);       // ratio unknown
  running.observe(2, 1.0, 0.5);  // without it all lower gradients would be half as large
  running.end_step();
  CHECK(running.sensitivities() == std::vector<double>{4.0, 2.0, 1.0 + 0.25 * (4.0 + 2.0)});
  // An unknown ratio does not change the share. A ratio above 1 counts as much as one equally far
  // below 1.
  running.observe(2, 1.0);
  running.observe(1, 2.0, 1.5);
  running.end_step();
  CHECK(running.sensitivities() ==
        std::vector<double>{4.0, 2.0 + 0.25 * 4.0, 1.0 + 0.25 * (4.0 + 2.0)});
}

TEST_CASE("Norms below a dropped branch are corrected to those of a complete backward pass") {
  // Branch 1 doubles the gradient of the residual stream: without it branch 0 sees a quarter of the
  // squared norm.
  RunningSensitivity running(3, 0.5);
  running.observe(0, 8.0);
  running.observe(1, 4.0, 0.5);
  running.observe(2, 2.0);
  running.end_step();
  const std::vector<double> before = running.sensitivities();
  running.observe(0, 2.0);
  running.observe(2, 2.0);
  running.end_step();
  CHECK(running.sensitivities() == before);
  // Branches above the dropped one are not corrected. A correction that overflows is skipped.
  running.observe(0, std::numeric_limits<double>::max());
  running.end_step();
  for (const double value : running.sensitivities()) CHECK(std::isfinite(value));
}

TEST_CASE("Branches that were not observed lately get the largest sensitivity") {
  RunningSensitivity running(3, 0.9, 2);
  CHECK(running.sensitivities() == std::vector<double>(3, 1.0));
  observe_step(running, {4.0, 1.0});
  CHECK(running.sensitivities() == std::vector<double>{4.0, 1.0, 4.0});
  CHECK_FALSE(running.is_known(2));
  for (int step = 0; step < 2; ++step) running.end_step();
  CHECK(running.sensitivities() == std::vector<double>{4.0, 1.0, 4.0});
  observe_step(running, {4.0});
  CHECK(running.sensitivities() == std::vector<double>{4.0, 4.0, 4.0});
  CHECK_FALSE(running.is_known(1));
  observe_step(running, {4.0, 1.0});
  CHECK(running.is_known(1));
  CHECK(running.sensitivities()[1] == 1.0);

  // Also where all are below 1, which is the sensitivity before the first observation.
  RunningSensitivity small(3, 0.9, 2);
  observe_step(small, {0x1p-20, 0x1p-21});
  CHECK(small.sensitivities() == std::vector<double>{0x1p-20, 0x1p-21, 0x1p-20});

  RunningSensitivity patient(2, 0.9, 0);
  observe_step(patient, {2.0, 1.0});
  for (int step = 0; step < 1000; ++step) patient.end_step();
  CHECK(patient.sensitivities() == std::vector<double>{2.0, 1.0});

  RunningSensitivity by_default(1);
  observe_step(by_default, {1.0});
  for (int step = 0; step < 100; ++step) by_default.end_step();
  CHECK(by_default.is_known(0));
  by_default.end_step();
  CHECK_FALSE(by_default.is_known(0));
}

TEST_CASE("Invalid observations are refused and do not change the estimate") {
  RunningSensitivity running(2);
  observe_step(running, {4.0, 1.0});
  const RunningSensitivity before = running;
  test::check_throws<std::invalid_argument>([&] { running.observe(2, 1.0); },
                                            {"numbered below 2", "it is 2"});
  for (const double bad : {-1.0, std::nan(""), std::numeric_limits<double>::infinity()})
    for (const bool ratio : {false, true})
      test::check_throws<std::invalid_argument>(
          [&] { running.observe(1, ratio ? 1.0 : bad, ratio ? bad : 1.0); },
          {"finite and not negative", "branch 1"});
  running.observe(0, 100.0);
  running.observe(1, 1.0);
  test::check_throws<std::invalid_argument>([&] { running.observe(1, -1.0); }, {"branch 1"});
  running.end_step();  // nothing of the step is left
  CHECK(running.sensitivities() == before.sensitivities());
  running.observe(0, 100.0);
  running.observe(1, 1.0);
  test::check_throws<std::invalid_argument>([&] { running.observe(2, 1.0); }, {"it is 2"});
  running.end_step();
  CHECK(running.sensitivities() == before.sensitivities());
  for (const double bad : {1.0, 1.5, -0.1, std::nan(""), std::numeric_limits<double>::infinity()})
    test::check_throws<std::invalid_argument>([&] { RunningSensitivity(2, bad); },
                                              {"decay", "[0, 1)"});
}

TEST_CASE("The extreme observations, and a decay of 0, are accepted") {
  RunningSensitivity newest(2, 0.0);  // the newest observation alone
  observe_step(newest, {4.0, 1.0});
  observe_step(newest, {1.0, 4.0});
  CHECK(newest.sensitivities() == std::vector<double>{1.0, 4.0});
  RunningSensitivity running(2);
  running.observe(0, 0.0);       // no gradient at all
  running.observe(1, 1.0, 0.0);  // the whole gradient below comes from this branch
  running.end_step();
  CHECK(running.sensitivities() == std::vector<double>{0.0, 1.0});
  CHECK(running.state().ratios == std::vector<double>{0.0, 0.0});
  CHECK(running.state().ratio_weights == std::vector<double>{0.0, 1.0});
}

TEST_CASE("The scale of a single branch is taken out entirely") {
  // Powers of two: the sums that are compared are exactly 1.
  RunningSensitivity running(1, 0.5);
  for (const double norm : {4.0, 8.0, 0x1p-300, 0x1p-1070, 1.0}) observe_step(running, {norm});
  CHECK(running.sensitivities() == std::vector<double>{4.0});
}

TEST_CASE("If all earlier or all current observations are 0, the step is not rescaled") {
  RunningSensitivity before(2, 0.5), now(2, 0.5);
  observe_step(before, {0.0, 0.0});
  observe_step(before, {3.0, 6.0});
  CHECK(before.sensitivities() == std::vector<double>{3.0 / 1.5, 6.0 / 1.5});
  observe_step(now, {3.0, 6.0});
  observe_step(now, {0.0, 0.0});
  CHECK(now.sensitivities() == std::vector<double>{1.5 / 1.5, 3.0 / 1.5});
}

TEST_CASE("Observations of any magnitude keep their ratios, and an estimate is always finite") {
  constexpr double largest = std::numeric_limits<double>::max();
  const auto ratio_after = [](double first, double second) {
    RunningSensitivity running(3, 0.5);
    observe_step(running, {4.0 * first, 2.0 * first, first});
    observe_step(running, {4.0 * second, 2.0 * second, second});
    const std::vector<double> s = running.sensitivities();
    CHECK(s[0] == 2.0 * s[1]);
    return s[0] / s[2];
  };
  for (const double first : {1.0, 0x1p-1020, 0x1p1020})
    for (const double second : {1.0, 0x1p-1020, 0x1p1020}) {
      CAPTURE(first, second);
      CHECK(ratio_after(first, second) == 4.0);
    }
  // Of the smallest normal doubles, without a lost bit.
  RunningSensitivity small(2, 0.5), one(2, 0.5);
  observe_step(small, {0x1p-1022, 0x1p-1022});
  observe_step(one, {1.0, 1.0});
  for (RunningSensitivity* each : {&small, &one}) observe_step(*each, {1.75, 1.25});
  CHECK(small.sensitivities()[0] * 0x1p1022 == one.sensitivities()[0]);
  RunningSensitivity running(3, 0.9);
  for (int step = 0; step < 100; ++step) {
    for (std::size_t i = 0; i < 3; ++i) running.observe(i, largest, 0.5);
    running.end_step();
  }
  for (const double each : running.sensitivities()) CHECK(std::isfinite(each));
  RunningSensitivity resumed(3, 0.9);
  CHECK_NOTHROW(resumed.restore(running.state()));
}

TEST_CASE("A restored running sensitivity continues like the saved one") {
  RunningSensitivity running(3, 0.7, 2);
  for (int step = 0; step < 5; ++step) {
    running.observe(0, 0.1 + step);
    if (step == 1) running.observe(1, 9.0, 0.75);
    running.end_step();
  }
  RunningSensitivity resumed(3, 0.7, 2);
  resumed.restore(running.state());
  CHECK(resumed == running);
  CHECK(resumed.state() == running.state());
  for (RunningSensitivity* one : {&running, &resumed}) one->observe(0, 3.0), one->end_step();
  CHECK(resumed.sensitivities() == running.sensitivities());

  RunningSensitivity fresh(3, 0.7, 2);
  CHECK_NOTHROW(fresh.restore(RunningSensitivity(3).state()));
  CHECK(fresh == RunningSensitivity(3, 0.7, 2));
  CHECK(RunningSensitivity(0).state() == RunningSensitivity::State{});

  const RunningSensitivity before = resumed;
  const RunningSensitivity::State good = running.state();
  test::check_throws<std::invalid_argument>([&] { resumed.restore(RunningSensitivity(2).state()); },
                                            {"as many branches (3)", "it has 2"});
  RunningSensitivity::State bad = good;
  bad.own_weights.pop_back();
  test::check_throws<std::invalid_argument>([&] { resumed.restore(bad); }, {"it has 2"});
  bad = good;
  bad.last.push_back(0);
  test::check_throws<std::invalid_argument>([&] { resumed.restore(bad); }, {"it has 4"});
  for (const double number : {-1.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
    for (auto list :
         {&RunningSensitivity::State::own, &RunningSensitivity::State::own_weights,
          &RunningSensitivity::State::ratios, &RunningSensitivity::State::ratio_weights}) {
      bad = good;
      (bad.*list)[1] = number;
      test::check_throws<std::invalid_argument>([&] { resumed.restore(bad); },
                                                {"finite and not negative", "branch 1"});
    }
  }
  bad = good;
  bad.last[0] = good.step;
  test::check_throws<std::invalid_argument>([&] { resumed.restore(bad); },
                                            {"(6)", "that of branch 0 is of step 6"});
  bad.own_weights[0] = 0.5;  // an observation that has nearly been forgotten
  test::check_throws<std::invalid_argument>([&] { resumed.restore(bad); },
                                            {"that of branch 0 is of step 6"});
  CHECK(resumed == before);
}
