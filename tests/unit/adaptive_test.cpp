// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The adaptive handler: when it drops, when it allocates, and its exact resume.
#include "dropbp/adaptive.hpp"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/recorder.hpp"
#include "support/throws.hpp"

using dropbp::AdaptiveHandler;
using dropbp::AdaptiveOptions;
using dropbp::DropBPHandler;
using test::check_throws;

namespace {

constexpr std::size_t size = 8;

using Chain = dropbp_test::RecorderChain<size>;

using Handler = AdaptiveHandler<Chain>;

// f(x) = factor * x, with the gradient of the factor.
struct Scale {
  struct Saved {
    std::vector<float> x;
  };
  float factor;
  std::vector<float> gradient = {0.0f};

  std::vector<float> forward(const std::vector<float>& x, Saved* saved) {
    if (saved != nullptr) saved->x = x;
    return {factor * x[0]};
  }
  std::vector<float> backward(const std::vector<float>& grad_output, Saved& saved) {
    gradient[0] += saved.x[0] * grad_output[0];
    return {factor * grad_output[0]};
  }
  void for_each_gradient(auto&& visit) { visit(gradient); }
};

struct ScaleNet {
  std::vector<dropbp::DropBPLayer<Scale>> layers;
  void for_each_layer(auto&& visit) {
    for (auto& layer : layers) visit(layer);
  }
};

// Squared gradient norms that change during the training.
std::vector<double> norms_at(std::uint64_t step) {
  std::vector<double> norms;
  for (std::size_t i = 0; i < size; ++i)
    norms.push_back(
        1.0 + std::pow(2.0, std::sin(0.05 * static_cast<double>(step) + static_cast<double>(i))));
  return norms;
}

void run(Handler& handler, std::uint64_t first, std::uint64_t end,
         std::vector<std::uint64_t>* plans = nullptr) {
  for (std::uint64_t step = first; step < end; ++step) {
    handler.begin_step(step);
    if (plans != nullptr) plans->push_back(handler.plan().fingerprint());
    handler.end_step(norms_at(step));
  }
}

constexpr AdaptiveOptions times{.steps = 100};  // allocates before steps 3, 13, 23, ...

}  // namespace

TEST_CASE(
    "An adaptive handler drops at its target rate, but nothing in the first steps and before "
    "each allocation") {
  Chain chain;
  Handler handler{chain, times, {.drop_rate = 0.5, .seed = 1}};
  CHECK(handler.times().first == 3);
  CHECK(handler.times().period == 10);
  std::vector<double> rates;
  for (std::uint64_t step = 0; step < 100; ++step) {
    CAPTURE(step);
    handler.begin_step(step);
    const bool complete = step < 3 || step % 10 == 2;
    if (complete) CHECK(handler.plan().kept_count() == size);
    double kept = 0.0;
    for (const double rate : handler.drop_rates()) kept += 1.0 - rate;
    CHECK(std::abs(kept - (complete ? 8.0 : 4.0)) < 1e-9);
    // New rates after each complete step, and only then.
    const std::vector<double> now(handler.drop_rates().begin(), handler.drop_rates().end());
    if (step > 3 && !complete) CHECK((now == rates) == (step % 10 != 3));
    if (!complete) rates = now;
    handler.end_step(norms_at(step));
  }
  CHECK(handler.target_rate() == 0.5);
}

TEST_CASE("An adaptive handler keeps the branches with the largest gradients") {
  Chain chain;
  Handler handler{chain, times, {.drop_rate = 0.5, .seed = 1}};
  for (std::uint64_t step = 0; step < 60; ++step) {
    handler.begin_step(step);
    handler.end_step(std::vector<double>{1, 1, 9, 1, 9, 9, 1, 9});
  }
  for (const std::size_t i : {2u, 4u, 5u, 7u}) CHECK(handler.drop_rates()[i] < 0.01);
  for (const std::size_t i : {0u, 1u, 3u, 6u}) CHECK(handler.drop_rates()[i] > 0.99);
}

TEST_CASE("All micro-steps of a complete step keep everything") {
  Chain chain;
  Handler handler{chain, times, {.drop_rate = 0.9, .seed = 1}};
  run(handler, 0, 12);
  handler.begin_step(12);
  for (std::uint32_t micro_step = 1; micro_step < 8; ++micro_step) {
    handler.begin_micro_step(micro_step);
    CHECK(handler.plan().kept_count() == size);
  }
}

TEST_CASE("A resumed adaptive training draws the plans of the uninterrupted one") {
  Chain chain;
  Handler whole{chain, times, {.drop_rate = 0.5, .seed = 5}};
  std::vector<std::uint64_t> expected;
  run(whole, 0, 60, &expected);
  for (std::uint64_t at = 0; at < 60; ++at) {
    CAPTURE(at);
    Handler first{chain, times, {.drop_rate = 0.5, .seed = 5}};
    run(first, 0, at);
    const dropbp::HandlerState state = dropbp::handler_state_from_text(to_text(first.state()));
    CHECK(state == first.state());
    Handler second{chain, times, {.drop_rate = 0.5, .seed = 77}};  // the seed is in the state
    second.restore(state);
    std::vector<std::uint64_t> plans;
    run(second, at, 60, &plans);
    CHECK(plans == std::vector<std::uint64_t>(expected.begin() + static_cast<std::ptrdiff_t>(at),
                                              expected.end()));
    CHECK(second.state().running == whole.state().running);
    CHECK(second.state().kept == whole.state().kept);
  }
}

TEST_CASE("An adaptive handler measures the gradients of a real model by itself") {
  ScaleNet net;
  for (std::size_t i = 0; i < size; ++i) net.layers.emplace_back(Scale{i < 4 ? 0.01f : -0.2f});
  AdaptiveHandler handler{net, {.steps = 40}, {.drop_rate = 0.5, .seed = 2}};
  for (std::uint64_t step = 0; step < 40; ++step) {
    handler.begin_step(step);
    for (auto& layer : net.layers) layer.op().gradient = {0.0f};
    std::vector<float> x{1.0f}, g{1.0f};
    for (auto& layer : net.layers) x = layer.forward(std::move(x));
    for (std::size_t i = size; i-- > 0;) g = net.layers[i].backward(std::move(g));
    handler.end_step();
  }
  CHECK(handler.report().mean_drop_rate() > 0.2);
  CHECK(handler.running_sensitivity().state().step == 40);
}

TEST_CASE("A target rate of 0 needs no estimates and never drops") {
  Chain chain;
  Handler handler{chain, times, {.drop_rate = 0.0}};
  for (std::uint64_t step = 0; step < 50; ++step) {
    handler.begin_step(step);
    CHECK(handler.plan().kept_count() == size);
  }
}

TEST_CASE("An allocation without an end of a step is refused, and the handler stays as it was") {
  Chain chain;
  Handler handler{chain, times, {.drop_rate = 0.5}};
  for (std::uint64_t step = 0; step < 3; ++step) handler.begin_step(step);
  const dropbp::HandlerState before = handler.state();
  check_throws<std::logic_error>([&] { handler.begin_step(3); },
                                 {"no step has ended before step 3", "call end_step()"});
  CHECK(handler.state() == before);
}

TEST_CASE("A target that the allocation policy cannot reach leaves all rates at 0") {
  Chain chain;
  Handler handler{chain, times, {.drop_rate = 0.5}, {.least_keep_rate = 0.6}};
  run(handler, 0, 3);
  const dropbp::HandlerState before = handler.state();
  check_throws<std::invalid_argument>([&] { handler.begin_step(3); }, {"at most 1 - least"});
  CHECK(handler.state() == before);
}

TEST_CASE("An adaptive handler begins a step with a plan of the user's") {
  Chain chain;
  Handler handler{chain, times, {.drop_rate = 0.5}};
  handler.begin_step(dropbp::DropPlan::drop_all(size, 0));
  CHECK(handler.plan().all_dropped());
  CHECK_THROWS_AS(handler.begin_step(~std::uint64_t{0}), std::invalid_argument);
  CHECK(handler.plan() == dropbp::DropPlan::drop_all(size, 0));
}

TEST_CASE("Impossible times of an adaptive handler are refused") {
  Chain chain;
  check_throws<std::invalid_argument>([&] { Handler(chain, {}); }, {"steps is 0"});
  check_throws<std::invalid_argument>([&] { Handler(chain, {.steps = 9, .period = 1}); },
                                      {"at least 2 steps", "it is 1"});
  check_throws<std::invalid_argument>([&] { Handler(chain, times, {.warmup_steps = 4}); },
                                      {"warmup_steps is 4"});
}

TEST_CASE("The states of an adaptive and of another handler are not mixed up") {
  Chain chain;
  Handler adaptive{chain, times, {.drop_rate = 0.5}};
  run(adaptive, 0, 20);
  const dropbp::HandlerState state = adaptive.state();
  DropBPHandler plain{chain};
  check_throws<std::invalid_argument>([&] { plain.restore(state); },
                                      {"this one is of an AdaptiveHandler"});
  check_throws<std::invalid_argument>([&] { adaptive.restore(plain.state()); },
                                      {"as many branches (8), but it has 0"});
  dropbp::HandlerState damaged = state;
  damaged.running.own.at(2) = -1.0;
  check_throws<std::invalid_argument>([&] { adaptive.restore(damaged); }, {"branch 2"});
  damaged = state;
  damaged.drop_rates[2] = 2.0;
  damaged.running.own.at(3) *= 2.0;
  CHECK_THROWS_AS(adaptive.restore(damaged), std::invalid_argument);
  CHECK(adaptive.state() == state);
}
