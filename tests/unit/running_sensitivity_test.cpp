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
