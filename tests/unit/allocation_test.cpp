// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Properties of every allocation, and the published allocation step by step.
#include "dropbp/policy/allocation.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "dropbp/base/philox.hpp"
#include "support/catch.hpp"
#include "support/promise.hpp"
#include "support/throws.hpp"

using dropbp::GreedyAllocation;
using dropbp::UniformAllocation;
using test::check_throws;

static_assert(dropbp::Allocation<GreedyAllocation>);
static_assert(dropbp::Allocation<UniformAllocation>);

namespace {

double sum_of(const std::vector<double>& values) {
  double sum = 0.0;
  for (const double value : values) sum += value;
  return sum;
}

std::vector<double> allocate(const std::vector<double>& sensitivities,
                             const std::vector<double>& costs, double drop_rate,
                             double min_rate = 0.0) {
  return GreedyAllocation{min_rate}.allocate(
      {sensitivities, costs, drop_rate, (1.0 - drop_rate) * sum_of(costs)});
}

double kept_cost(const std::vector<double>& rates, const std::vector<double>& costs) {
  double kept = 0.0;
  for (std::size_t i = 0; i < rates.size(); ++i) kept += costs[i] * (1.0 - rates[i]);
  return kept;
}

// The published allocation, with a search over all branches in place of its heap.
std::vector<double> published(const std::vector<double>& sensitivities,
                              const std::vector<double>& costs, double target, double min_rate) {
  const std::size_t size = costs.size();
  std::vector<float> rates(size, static_cast<float>(min_rate)), keys(size);
  std::vector<bool> waiting(size, true);
  double remaining = 0.0;
  for (std::size_t i = 0; i < size; ++i) {
    keys[i] = static_cast<float>(static_cast<double>(static_cast<float>(sensitivities[i])) *
                                 (0.1 + min_rate));
    remaining += static_cast<double>(static_cast<float>(costs[i]));
  }
  remaining *= 1.0 - min_rate;
  while (remaining > target) {
    std::size_t best = size;
    for (std::size_t i = 0; i < size; ++i)
      if (waiting[i] && (best == size || keys[i] <= keys[best]))
        best = i;  // on a tie the larger index wins
    if (best == size) break;
    rates[best] = static_cast<float>(static_cast<double>(rates[best]) + 0.1);
    remaining -= 0.1 * static_cast<double>(static_cast<float>(costs[best]));
    waiting[best] = static_cast<double>(rates[best]) < 0.9;
    keys[best] =
        static_cast<float>(static_cast<double>(keys[best]) +
                           0.1 * static_cast<double>(static_cast<float>(sensitivities[best])));
  }
  return {rates.begin(), rates.end()};
}

class Random {
 public:
  explicit Random(std::uint64_t instance) : random_(31, dropbp::RandomStream::user, instance) {}
  double uniform() { return static_cast<double>(random_(next_++) >> 11) * 0x1p-53; }
  std::size_t below(std::size_t bound) {
    return static_cast<std::size_t>(random_(next_++) % bound);
  }

 private:
  dropbp::CounterRandom random_;
  std::uint64_t next_ = 0;
};

}  // namespace

TEST_CASE("Uniform allocation gives every branch the target") {
  const std::vector<double> sensitivities{3, 1, 2}, costs{1, 2, 3};
  CHECK(UniformAllocation{}.allocate({sensitivities, costs, 0.7, 1.8}) ==
        std::vector<double>{0.7, 0.7, 0.7});
}

TEST_CASE(
    "On random instances the budget is kept, rates are in range, and the heap agrees with a plain "
    "search") {
  std::size_t over_budget = 0, out_of_range = 0, infeasible = 0, wrong = 0, not_tight = 0;
  for (std::uint64_t instance = 0; instance < 1'000'000; ++instance) {
    Random random(instance);
    const std::size_t size = 1 + random.below(instance % 100 == 0 ? 100 : 12);
    std::vector<double> sensitivities(size), costs(size);
    const std::size_t kind = random.below(5);
    for (std::size_t i = 0; i < size; ++i) {
      const double u = random.uniform(), v = random.uniform();
      sensitivities[i] = kind == 0   ? u
                         : kind == 1 ? std::exp(20.0 * (u - 0.5))
                         : kind == 2 ? static_cast<double>(random.below(3))
                         : kind == 3 ? 1.0 + static_cast<double>(random.below(8)) *
                                                 0x1p-23  // the rounding of keys decides
                                     : 0.0;
      costs[i] = kind == 1 ? std::exp(10.0 * v) : 1.0 + static_cast<double>(random.below(4));
    }
    const double min_rate = random.below(3) == 0 ? 0.3 * random.uniform() : 0.0;
    const double drop_rate = random.uniform() * 0.999;
    const double total = sum_of(costs), budget = (1.0 - drop_rate) * total;
    std::vector<double> rates;
    try {
      rates = allocate(sensitivities, costs, drop_rate, min_rate);
    } catch (const std::invalid_argument&) {
      ++infeasible;
      not_tight += drop_rate < 0.9 - 1e-6;  // refused, but a rate of 0.9 for all branches would do
      continue;
    }
    const double kept = kept_cost(rates, costs);
    over_budget += kept > budget + 1e-6 * total;
    for (const double rate : rates)
      out_of_range += !(rate >= static_cast<double>(static_cast<float>(min_rate)) && rate <= 1.0);
    // At most one step of 0.1 below the budget, unless min_rate alone forces more.
    const double largest = *std::max_element(costs.begin(), costs.end());
    if (drop_rate > min_rate) not_tight += kept < budget - 0.1 * largest - 1e-6 * total;
    if (instance % 4 == 0) wrong += rates != published(sensitivities, costs, budget, min_rate);
  }
  CHECK(over_budget == 0);
  CHECK(out_of_range == 0);
  CHECK(wrong == 0);
  CHECK(not_tight == 0);
  CHECK(infeasible > 1000);  // so the loop also covers infeasible targets
  dropbp_test::promise(6, "instances=1000000 violations=%zu infeasible=%zu",
                       over_budget + out_of_range + wrong + not_tight, infeasible);
}

TEST_CASE("A target out of reach is refused with a message that names the largest feasible one") {
  const std::vector<double> sensitivities{1, 2}, costs{1, 1};
  for (const double drop_rate : {0.95, 1.0}) {
    try {
      allocate(sensitivities, costs, drop_rate);
      FAIL("an infeasible target was taken");
    } catch (const std::invalid_argument& error) {
      const std::string message = error.what();
      CAPTURE(message);
      CHECK(message.find("the largest feasible target rate here is 0.9,") != std::string::npos);
      CHECK(message.find("the target rate is " + std::string(drop_rate < 1.0 ? "0.95" : "1")) !=
            std::string::npos);
    }
  }
  // The target in the message is feasible.
  for (const double rate : allocate(sensitivities, costs, 0.9))
    CHECK(rate == Approx(0.9).margin(1e-6));
  for (std::size_t size = 1; size <= 300; ++size) {
    std::vector<double> many(size);
    for (std::size_t i = 0; i < size; ++i) many[i] = 1.0 + static_cast<double>(i % 7) / 3.0;
    REQUIRE_NOTHROW(allocate(many, many, 0.9));
  }
}

TEST_CASE(
    "Every branch keeps the minimum rate, and a minimum rate of 0.9 or more is never exceeded") {
  const std::vector<double> sensitivities{1, 100}, costs{1, 1};
  for (const double rate : allocate(sensitivities, costs, 0.3, 0.2))
    CHECK(rate >= static_cast<double>(0.2f));
  for (const double rate : allocate(sensitivities, costs, 0.5, 0.95))
    CHECK(rate == static_cast<double>(0.95f));
  try {
    allocate(sensitivities, costs, 0.97, 0.95);
    FAIL("an infeasible target was taken");
  } catch (const std::invalid_argument& error) {
    CAPTURE(error.what());
    CHECK(std::string(error.what()).find("the largest feasible target rate here is 0.95,") !=
          std::string::npos);
  }
  CHECK_THROWS_AS(allocate(sensitivities, costs, 0.5, -0.1), std::invalid_argument);
  CHECK_THROWS_AS(allocate(sensitivities, costs, 0.5, 1.1), std::invalid_argument);
  CHECK_THROWS_AS(allocate(sensitivities, costs, 0.5, std::nan("")), std::invalid_argument);
}

TEST_CASE("Costs and sensitivities outside float32's range are accepted") {
  const std::vector<double> rates = allocate({2, 1}, {1, 1}, 0.5);
  for (const double one : {0x1.0p127, 0x1.0p128, 0x1.0p500, 0x1.0p1022}) {
    CHECK(allocate({2 * one, one}, {1, 1}, 0.5) == rates);
    CHECK(allocate({2, 1}, {one, one}, 0.5) == rates);
  }
  const double largest = std::numeric_limits<double>::max(), largest_float = 0x1.fffffep127;
  CHECK(allocate({largest, 1}, {1, 1}, 0.5)[1] == Approx(0.9));
  CHECK(allocate({largest_float, 1}, {1, 1}, 0.5)[1] == Approx(0.9));
  CHECK(allocate({1, 1}, {largest_float, largest_float}, 0.5) == allocate({1, 1}, {1, 1}, 0.5));
}

TEST_CASE("Within float32's range the rates have the bits of the published arithmetic") {
  std::size_t wrong = 0, compared = 0;
  for (std::uint64_t instance = 0; instance < 500; ++instance) {
    Random random(2'000'000 + instance);
    const std::size_t size = 2 + random.below(20);
    // From the largest float32 down to where the smallest key is still a normal float32.
    std::vector<double> sensitivities(size), costs(size);
    for (std::size_t i = 0; i < size; ++i) {
      sensitivities[i] =
          std::ldexp(1.0 + random.uniform(), 126 - static_cast<int>(random.below(248)));
      costs[i] = std::ldexp(1.0 + random.uniform(), 126 - static_cast<int>(random.below(30)));
    }
    sensitivities[0] = 0x1.fffffep127;
    sensitivities[1] = 0x1p-122;
    const double drop_rate = 0.85 * random.uniform();
    const double target = (1.0 - drop_rate) * sum_of(costs);
    wrong +=
        allocate(sensitivities, costs, drop_rate) != published(sensitivities, costs, target, 0.0);
    ++compared;
  }
  CHECK(wrong == 0);
  CHECK(compared == 500);
}

TEST_CASE("Numbers in the largest binade of float32 give the rates of small ones") {
  const std::vector<double> small{1.25, 1.5, 1.0}, large{0x1.4p127, 0x1.8p127, 0x1p127};
  for (const double drop_rate : {0.1, 0.3, 0.5, 0.8}) {
    const std::vector<double> rates = allocate(small, small, drop_rate);
    CHECK(allocate(large, small, drop_rate) == rates);
    CHECK(allocate(small, large, drop_rate) == rates);
  }
}

TEST_CASE("The smallest normal key of float32 is not 0") {
  // The key of the last branch is 10 * 2^-126 * 0.1; that of the second is 0 at every rate.
  const std::vector<double> rates =
      allocate({0x1p126, 0.0, 0x1.4p-123}, std::vector<double>(3, 1.0), 0.1);
  CHECK(rates[0] == 0.0);
  CHECK(rates[1] > 0.29);
  CHECK(rates[2] == 0.0);
}

TEST_CASE("Rates do not depend on the unit of costs or sensitivities") {
  for (std::uint64_t instance = 0; instance < 500; ++instance) {
    Random random(1'000'000 + instance);
    const std::size_t size = 1 + random.below(20);
    std::vector<double> sensitivities(size), costs(size);
    for (std::size_t i = 0; i < size; ++i)
      sensitivities[i] = random.uniform(), costs[i] = 0.1 + random.uniform();
    const double drop_rate = 0.85 * random.uniform();
    const std::vector<double> rates = allocate(sensitivities, costs, drop_rate);
    for (const double scale : {0x1p-1000, 0x1p-170, 0x1p-60, 0x1p-1, 0x1p1, 0x1p60, 0x1p900}) {
      std::vector<double> scaled_sensitivities = sensitivities, scaled_costs = costs;
      for (double& one : scaled_sensitivities) one *= scale;
      for (double& one : scaled_costs) one *= scale;
      REQUIRE(allocate(scaled_sensitivities, costs, drop_rate) == rates);
      REQUIRE(allocate(sensitivities, scaled_costs, drop_rate) == rates);
    }
  }
}

TEST_CASE("Among equal branches the larger index is dropped first") {
  const std::vector<double> costs(4, 1.0);
  const std::vector<double> equal = allocate({1, 1, 1, 1}, costs, 0.05);
  CHECK(equal ==
        std::vector<double>{0.0, 0.0, static_cast<double>(0.1f), static_cast<double>(0.1f)});
  // With all sensitivities 0 the last branches reach the maximum first.
  const std::vector<double> none = allocate({0, 0, 0, 0}, costs, 0.5);
  CHECK(none[0] == 0.0);
  CHECK(none[3] == Approx(0.9).margin(1e-6));
  CHECK(none[2] == Approx(0.9).margin(1e-6));
}

TEST_CASE("A single branch takes the whole target, rounded up to tenths") {
  CHECK(allocate({1}, {5}, 0.0) == std::vector<double>{0.0});
  CHECK(allocate({1}, {5}, 0.42)[0] == Approx(0.5).margin(1e-6));
  CHECK(allocate({0}, {5}, 0.9)[0] == Approx(0.9).margin(1e-6));
}

TEST_CASE("Less sensitive branches are dropped at least as often") {
  const std::vector<double> rates = allocate({1, 2, 4, 8, 16}, {1, 1, 1, 1, 1}, 0.4);
  CHECK(std::is_sorted(rates.rbegin(), rates.rend()));
  CHECK(rates.front() > rates.back());
}

TEST_CASE("Allocation handles a million branches") {
  const std::size_t size = 1'000'000;
  std::vector<double> sensitivities(size), costs(size, 1.0);
  Random random(7);
  for (double& one : sensitivities) one = random.uniform();
  const std::vector<double> rates = allocate(sensitivities, costs, 0.25);
  CHECK(kept_cost(rates, costs) == Approx(0.75 * static_cast<double>(size)).epsilon(1e-5));
}
