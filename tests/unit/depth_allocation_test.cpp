// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

#include "dropbp/policy/depth_allocation.hpp"

#include <cmath>
#include <cstddef>
#include <stdexcept>
#include <vector>

#include "dropbp/dropbp.hpp"
#include "support/catch.hpp"
#include "support/small_net.hpp"
#include "support/throws.hpp"

using dropbp::DepthAllocation;
using test::check_throws;

namespace {

using Rates = std::vector<double>;

Rates allocate(const Rates& costs, double drop_rate) {
  double total = 0.0;
  for (const double cost : costs) total += cost;
  return DepthAllocation{}.allocate({.sensitivities = {},
                                     .costs = costs,
                                     .drop_rate = drop_rate,
                                     .kept_cost = (1.0 - drop_rate) * total});
}

}  // namespace

TEST_CASE("DepthAllocation drops the lowest branches, and the one between meets the target") {
  CHECK(allocate({1.0, 1.0, 1.0, 1.0}, 0.5) == Rates{1.0, 1.0, 0.0, 0.0});
  CHECK(allocate({1.0, 1.0, 1.0, 1.0}, 0.625) == Rates{1.0, 1.0, 0.5, 0.0});
  CHECK(allocate({2.0, 1.0, 4.0, 1.0}, 0.5) == Rates{1.0, 1.0, 0.25, 0.0});
  CHECK(allocate({2.0, 1.0}, 0.0) == Rates{0.0, 0.0});
  CHECK(allocate({2.0, 1.0}, 1.0) == Rates{1.0, 1.0});
  CHECK(allocate({3.0}, 0.25) == Rates{0.25});
  // A target so low that the budget is the whole cost.
  CHECK(allocate({2.0, 1.0}, 1e-300) == Rates{0.0, 0.0});
}

TEST_CASE("DepthAllocation meets every target, with at most one rate between 0 and 1") {
  const dropbp::CounterRandom random(7, dropbp::RandomStream::user, 0);
  const auto uniform = [&](std::uint64_t i) {
    return static_cast<double>(random(i) >> 11) * 0x1p-53;
  };
  for (std::uint64_t trial = 0; trial < 2000; ++trial) {
    Rates costs;
    const std::size_t count = 1 + static_cast<std::size_t>(20.0 * uniform(64 * trial));
    double total = 0.0, expected = 0.0;
    for (std::size_t i = 0; i < count; ++i) {
      costs.push_back(std::exp(20.0 * uniform(64 * trial + 1 + i) - 10.0));
      total += costs.back();
    }
    const double target = uniform(64 * trial + 40);
    const Rates rates = allocate(costs, target);
    CAPTURE(trial, count, target);
    for (std::size_t i = 0; i < count; ++i) {
      expected += rates[i] * costs[i];
      REQUIRE((rates[i] >= 0.0 && rates[i] <= 1.0));
      if (i > 0 && rates[i] > 0.0) REQUIRE(rates[i - 1] == 1.0);
    }
    REQUIRE(std::abs(expected / total - target) < 1e-12);
  }
}

TEST_CASE("A handler allocates when it is made if its policy needs no sensitivities") {
  dropbp_test::LayerNet<double> net;
  dropbp::DropBPHandler handler(net, {.drop_rate = 0.5}, DepthAllocation{});
  const auto rates = [&] {
    return Rates(handler.drop_rates().begin(), handler.drop_rates().end());
  };
  const Rates half = allocate({handler.costs().begin(), handler.costs().end()}, 0.5);
  CHECK(rates() == half);
  handler.set_drop_rate(0.2);
  CHECK(rates() == Rates(handler.size(), 0.2));
  handler.allocate();
  CHECK(rates() == allocate({handler.costs().begin(), handler.costs().end()}, 0.2));
  CHECK(handler.sensitivities().empty());

  dropbp_test::LayerNet<double> other;
  dropbp::DropBPHandler greedy(other, {.drop_rate = 0.5});
  CHECK(Rates(greedy.drop_rates().begin(), greedy.drop_rates().end()) == Rates(greedy.size(), 0.5));
  check_throws<std::logic_error>([&] { greedy.allocate(); },
                                 {"needs sensitivities", "allocate_by_sensitivity"});
}

TEST_CASE("Kept branches have the gradients of ordinary training if all below are dropped") {
  using namespace dropbp_test;
  const auto gradients = [](double drop_rate) {
    LayerNet<double> net;
    dropbp::DropBPHandler handler(net, {.drop_rate = drop_rate}, DepthAllocation{});
    handler.begin_step(0);
    net.clear_gradients();
    net.forward(Face::residual);
    net.backward(Face::residual);
    std::vector<Vector<double>> result;
    net.for_each_layer([&](auto& layer) {
      result.push_back(handler.has_gradient(result.size()) ? layer.op().gradient
                                                           : Vector<double>{});
    });
    return result;
  };
  const auto ordinary = gradients(0.0), half = gradients(0.5);
  for (std::size_t i = 0; i < branches; ++i) {
    CAPTURE(i);
    CHECK(half[i] == (i < branches / 2 ? Vector<double>{} : ordinary[i]));
  }
}
