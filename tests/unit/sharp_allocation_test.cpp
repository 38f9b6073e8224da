// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

#include "dropbp/policy/sharp_allocation.hpp"

#include <cmath>
#include <cstddef>
#include <stdexcept>
#include <vector>

#include "support/catch.hpp"
#include "support/throws.hpp"

using dropbp::OptimalAllocation;
using dropbp::SharpAllocation;
using test::check_throws;

namespace {

using Rates = std::vector<double>;

Rates allocate(const SharpAllocation& policy, const Rates& sensitivities, const Rates& costs,
               double drop_rate) {
  double total = 0.0;
  for (const double cost : costs) total += cost;
  return policy.allocate({.sensitivities = sensitivities,
                          .costs = costs,
                          .drop_rate = drop_rate,
                          .kept_cost = (1.0 - drop_rate) * total});
}

}  // namespace

TEST_CASE("Sharp rates are the optimal ones of the powers, computed independently") {
  // With equal costs and no bound reached, p_i is in proportion to 1 / S_i^sharpness.
  const Rates sensitivities{1.0, 1.2, 1.5}, costs{2.0, 2.0, 2.0};
  for (const unsigned sharpness : {1u, 2u, 4u, 7u}) {
    CAPTURE(sharpness);
    Rates weights;
    double sum = 0.0;
    for (const double one : sensitivities) {
      weights.push_back(std::pow(one, -static_cast<double>(sharpness)));
      sum += weights.back();
    }
    const Rates rates = allocate({.sharpness = sharpness}, sensitivities, costs, 0.2);
    for (std::size_t i = 0; i < 3; ++i)
      CHECK(std::abs(rates[i] - 3.0 * 0.2 * weights[i] / sum) < 1e-12);
  }
}

TEST_CASE("A sharpness of 1 is OptimalAllocation; a large one drops the least sensitive branches") {
  const Rates sensitivities{3.0, 1.0, 4.0, 1.5, 9.0, 2.6}, costs{1.0, 2.0, 1.0, 2.0, 1.0, 2.0};
  const dropbp::AllocationInput input{
      .sensitivities = sensitivities, .costs = costs, .drop_rate = 0.5, .kept_cost = 4.5};
  CHECK(SharpAllocation{.sharpness = 1}.allocate(input) ==
        OptimalAllocation<>{.max_rates = {1.0}}.allocate(input));
  const Rates rates = allocate({.sharpness = 64}, sensitivities, costs, 4.0 / 9.0);
  for (const std::size_t dropped : {1u, 3u}) CHECK(rates[dropped] > 0.999);
  for (const std::size_t kept : {0u, 2u, 4u, 5u}) CHECK(rates[kept] < 0.001);
}

TEST_CASE("The sharpness is 4 unless another is given") {
  CHECK(SharpAllocation{} == SharpAllocation{.sharpness = 4, .least_keep_rate = 0.0});
}

TEST_CASE("Only ratios of sensitivities matter for sharp rates, however large or small") {
  const Rates costs{1.0, 2.0, 1.0, 2.0};
  const Rates expected = allocate({}, {8.0, 2.0, 4.0, 3.0}, costs, 0.5);
  for (const double scale : {0x1p-900, 0x1p-1060, 0x1p900, 0x1p1020}) {
    Rates scaled;
    for (const double one : {8.0, 2.0, 4.0, 3.0}) scaled.push_back(one * scale);
    CHECK(allocate({}, scaled, costs, 0.5) == expected);
  }
  for (const double rate : allocate({}, {0.0, 0.0, 0.0, 0.0}, costs, 0.5))
    CHECK(std::abs(rate - 0.5) < 1e-12);
}

TEST_CASE("Every branch is kept at least as often as asked") {
  const Rates sensitivities{1e-9, 1.0, 1e-6, 5.0}, costs(4, 1.0);
  const Rates rates = allocate({.least_keep_rate = 0.2}, sensitivities, costs, 0.5);
  double kept = 0.0;
  for (const double rate : rates) {
    CHECK(rate <= 0.8);
    kept += 1.0 - rate;
  }
  CHECK(kept <= 2.0 + 1e-12);
  CHECK(rates[0] == 0.8);
}

TEST_CASE("Impossible parameters of a sharp allocation are refused") {
  const Rates sensitivities{1.0, 2.0}, costs{1.0, 1.0};
  check_throws<std::invalid_argument>(
      [&] { allocate({.sharpness = 0}, sensitivities, costs, 0.5); }, {"must be from 1 to 64"});
  check_throws<std::invalid_argument>(
      [&] { allocate({.sharpness = 65}, sensitivities, costs, 0.5); }, {"it is 65"});
  check_throws<std::invalid_argument>(
      [&] { allocate({.least_keep_rate = 1.5}, sensitivities, costs, 0.5); }, {"least_keep_rate"});
  check_throws<std::invalid_argument>(
      [&] { allocate({.least_keep_rate = 0.6}, sensitivities, costs, 0.5); },
      {"at most 1 - least_keep_rate, which is 0.4"});
}
