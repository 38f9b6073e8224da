// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

#include "dropbp/policy/running_sensitivity.hpp"

#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "support/catch.hpp"
#include "support/throws.hpp"

using dropbp::RunningSensitivity;

TEST_CASE("A running sensitivity is the average of its observations, the older the less, without a bias at the start") {
  RunningSensitivity running(1, 0.5);
  running.observe(0, 8.0);
  CHECK(running.sensitivities() == std::vector<double>{8.0});
  running.end_step();
  running.observe(0, 2.0);
  CHECK(running.sensitivities() == std::vector<double>{(2.0 + 0.5 * 8.0) / 1.5});
  for (int i = 0; i < 100; ++i) running.observe(0, 3.0);
  CHECK(std::abs(running.sensitivities()[0] - 3.0) < 1e-12);
}

TEST_CASE("Branches that were not seen lately count as the most sensitive one") {
  RunningSensitivity running(3, 0.9, 2);
  CHECK(running.sensitivities() == std::vector<double>(3, 1.0));
  running.observe(0, 4.0);
  running.observe(1, 1.0);
  CHECK(running.sensitivities() == std::vector<double>{4.0, 1.0, 4.0});
  CHECK_FALSE(running.is_known(2));
  for (int step = 0; step < 2; ++step) running.end_step();
  CHECK(running.sensitivities() == std::vector<double>{4.0, 1.0, 4.0});
  running.observe(0, 4.0);
  running.end_step();
  CHECK(running.sensitivities() == std::vector<double>{4.0, 4.0, 4.0});
  CHECK_FALSE(running.is_known(1));
  running.observe(1, 1.0);
  CHECK(running.is_known(1));
  CHECK(running.sensitivities()[1] == 1.0);

  RunningSensitivity patient(2, 0.9, 0);
  patient.observe(0, 2.0);
  patient.observe(1, 1.0);
  for (int step = 0; step < 1000; ++step) patient.end_step();
  CHECK(patient.sensitivities() == std::vector<double>{2.0, 1.0});
}

TEST_CASE("Wrong observations are refused, and leave the estimate as it was") {
  RunningSensitivity running(2);
  running.observe(0, 4.0);
  const RunningSensitivity before = running;
  test::check_throws<std::invalid_argument>([&] { running.observe(2, 1.0); }, {"numbered below 2", "it is 2"});
  for (const double bad : {-1.0, std::nan(""), std::numeric_limits<double>::infinity()})
    test::check_throws<std::invalid_argument>([&] { running.observe(1, bad); }, {"finite and not negative", "branch 1"});
  CHECK(running == before);
  for (const double bad : {1.0, -0.1, std::nan("")})
    test::check_throws<std::invalid_argument>([&] { RunningSensitivity(2, bad); }, {"decay", "[0, 1)"});
}

TEST_CASE("A restored running sensitivity goes on as the saved one does") {
  RunningSensitivity running(3, 0.7, 2);
  for (int step = 0; step < 5; ++step) {
    running.observe(0, 0.1 + step);
    if (step == 1) running.observe(1, 9.0);
    running.end_step();
  }
  RunningSensitivity resumed(3, 0.7, 2);
  resumed.restore(running.state());
  CHECK(resumed == running);
  CHECK(resumed.state() == running.state());
  for (RunningSensitivity* one : {&running, &resumed}) one->observe(0, 3.0), one->end_step();
  CHECK(resumed.sensitivities() == running.sensitivities());

  const RunningSensitivity before = resumed;
  const RunningSensitivity::State good = running.state();
  test::check_throws<std::invalid_argument>([&] { resumed.restore(RunningSensitivity(2).state()); },
                                            {"as many branches (3)", "it has 2"});
  RunningSensitivity::State bad = good;
  bad.weights.pop_back();
  test::check_throws<std::invalid_argument>([&] { resumed.restore(bad); }, {"it has 2"});
  bad = good;
  bad.last.push_back(0);
  test::check_throws<std::invalid_argument>([&] { resumed.restore(bad); }, {"it has 4"});
  for (const double number : {-1.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
    bad = good;
    bad.sums[1] = number;
    test::check_throws<std::invalid_argument>([&] { resumed.restore(bad); }, {"finite and not negative", "branch 1"});
    bad = good;
    bad.weights[2] = number;
    test::check_throws<std::invalid_argument>([&] { resumed.restore(bad); }, {"finite and not negative", "branch 2"});
  }
  bad = good;
  bad.last[0] = good.step + 1;
  test::check_throws<std::invalid_argument>([&] { resumed.restore(bad); }, {"seen in step 7 of 6"});
  CHECK(resumed == before);
}
