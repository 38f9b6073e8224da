// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Misuse of a handler: two handlers on one model, a moved-from handler, layers that cannot be
// visited, impossible states and numbers. Each is detected and changes nothing.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dropbp/dropbp.hpp"
#include "dropbp/steady_clock.hpp"
#include "support/catch.hpp"
#include "support/recorder.hpp"
#include "support/throws.hpp"

using dropbp::DropBPHandler;
using dropbp::DropBPLayer;
using dropbp::DropPlan;
using dropbp::HandlerState;
using dropbp_test::Journal;
using dropbp_test::Recorder;
using test::check_throws;

namespace {

constexpr std::size_t size = 4;

// A chain of Recorders whose for_each_layer can throw.
struct Chain {
  std::vector<Journal> journals = std::vector<Journal>(size);
  std::vector<DropBPLayer<Recorder<>>> layers;
  std::vector<double> gradient;
  int visits = 0;  // number of layers visited
  int throws_at = std::numeric_limits<int>::max();
  bool goes_on_throwing = false;

  Chain() {
    for (Journal& journal : journals) layers.emplace_back(Recorder<>(journal));
  }
  template <class Visit>
  void for_each_layer(Visit&& visit) {
    for (auto& layer : layers) {
      const int number = visits++;
      if (number == throws_at || (goes_on_throwing && number > throws_at)) throw number;
      visit(layer);
    }
  }
  template <class Visit>
  void for_each_gradient(Visit&& visit) {
    for (Journal& journal : journals) {
      gradient = {journal.parameter_gradient};
      visit(gradient);
    }
  }
  void forward() {
    std::vector<float> x{1e-6f};
    for (auto& layer : layers) x = layer.forward(std::move(x));
  }
  void backward() {
    std::vector<float> g{1e-6f};
    for (std::size_t i = layers.size(); i-- > 0;) g = layers[i].backward(std::move(g));
  }
  void pass() {
    for (Journal& journal : journals) journal.parameter_gradient = 0.0;
    forward();
    backward();
  }
};

std::vector<double> to_vector(std::span<const double> values) {
  return {values.begin(), values.end()};
}

}  // namespace

TEST_CASE("A backward pass that belongs to another handler's step is refused") {
  Chain chain;
  DropBPHandler one{chain, {.drop_rate = 0.0}}, other{chain, {.drop_rate = 0.0}};
  const auto refused = [&] {
    check_throws<std::logic_error>([&] { chain.backward(); }, {"the same micro-step"});
  };
  for (std::uint64_t step = 0; step < 3; ++step) {
    one.begin_step(step);
    chain.forward();
    other.begin_step(step);
    refused();
  }
  // A copy is a handler of its own.
  DropBPHandler copy = one;
  one.begin_step(3);
  chain.forward();
  copy.begin_step(3);
  refused();
  chain.forward();
  one.begin_step(4);
  refused();
  chain.pass();
}

TEST_CASE("A moved-from handler or schedule throws in every call, and its successor works") {
  Chain chain;
  DropBPHandler moved_from{chain, {.drop_rate = 0.5, .seed = 3}};
  moved_from.begin_step(0);
  DropBPHandler handler = std::move(moved_from);
  const auto refused = [&](auto call) {
    check_throws<std::logic_error>([&] { call(moved_from); }, {"was moved from", "moved to"});
  };
  refused([](auto& h) { h.begin_step(1); });
  refused([](auto& h) { h.begin_step(DropPlan()); });
  refused([](auto& h) { h.begin_micro_step(1); });
  refused([](auto& h) { h.begin_evaluation(); });
  refused([](auto& h) { h.has_gradient(0); });
  refused([](auto& h) { h.set_drop_rate(0.5); });
  refused([](auto& h) { h.set_drop_rates({}); });
  refused([](auto& h) { h.set_costs({}); });
  refused([](auto& h) { h.update_costs(); });
  refused([](auto& h) { h.allocate({}); });
  refused([&](auto& h) { h.measure_sensitivities([&] { chain.pass(); }); });
  refused([&](auto& h) { h.measure_costs([&] { chain.pass(); }, dropbp::SteadyClock{}); });
  refused([](auto& h) { h.report(); });
  refused([](auto& h) { h.state(); });
  refused([](auto& h) { h.restore(HandlerState{}); });
  handler.begin_micro_step(1);
  chain.pass();
  handler.begin_step(1);
  CHECK(handler.plan() == handler.schedule().plan(1));

  dropbp::DropSchedule<> from({1.0, 1.0});
  const dropbp::DropSchedule<> to = std::move(from);
  check_throws<std::logic_error>([&] { static_cast<void>(from.plan(0)); }, {"was moved from"});
  CHECK(to.plan(0).size() == 2);
}

TEST_CASE(
    "An exception of for_each_layer during a measurement reaches the caller and changes nothing") {
  for (const bool begun : {false, true})
    for (const bool goes_on : {false, true}) {
      int failures = 0;
      for (int at = 0;; ++at) {
        Chain chain, undisturbed;
        DropBPHandler handler{chain, {.drop_rate = 0.5, .seed = 3}};
        DropBPHandler other{undisturbed, {.drop_rate = 0.5, .seed = 3}};
        if (begun) {
          handler.begin_step(0), chain.pass();
          other.begin_step(0), undisturbed.pass();
        }
        chain.throws_at = chain.visits + at;
        chain.goes_on_throwing = goes_on;
        const int expected = chain.throws_at;
        int thrown = -1;
        try {
          handler.measure_sensitivities([&] { chain.pass(); });
        } catch (const int number) {
          thrown = number;
        }
        chain.throws_at = std::numeric_limits<int>::max();
        if (thrown < 0) break;
        ++failures;
        CAPTURE(begun, goes_on, at);
        REQUIRE(thrown == expected);
        REQUIRE(handler.state() == other.state());
        REQUIRE(handler.plan() == other.plan());
        REQUIRE(handler.report().micro_steps == other.report().micro_steps);
        handler.begin_step(1), other.begin_step(1);
        chain.pass(), undisturbed.pass();
        REQUIRE(handler.state() == other.state());
        REQUIRE(handler.plan() == other.plan());
      }
      // A measurement visits the layers twice before it, once for each of its five passes, once to
      // check that they ran, and twice to restore them.
      CHECK(failures >= 10 * static_cast<int>(size));
    }
}

TEST_CASE("The caller gets the exception of backprop even if for_each_layer throws after it") {
  Chain chain;
  DropBPHandler handler{chain, {.drop_rate = 0.5, .seed = 3}};
  handler.begin_step(0);
  chain.pass();
  const HandlerState before = handler.state();
  CHECK_THROWS_AS(handler.measure_sensitivities([&] {
    chain.pass();
    chain.throws_at = chain.visits;
    chain.goes_on_throwing = true;
    throw std::runtime_error("no more data");
  }),
                  std::runtime_error);
  CHECK_THROWS_AS(handler.begin_micro_step(1), int);  // the layers are not restored yet
  CHECK_THROWS_AS(handler.begin_evaluation(), int);
  chain.throws_at = std::numeric_limits<int>::max();
  CHECK(handler.state() == before);
  handler.begin_micro_step(1);
  CHECK(handler.plan() == handler.schedule().plan(0, 1));
  chain.pass();
  CHECK(handler.state().calls[0].forward == 2);
}

TEST_CASE(
    "Inside a measurement the calls that read or change rates, costs and counts are refused") {
  Chain chain;
  DropBPHandler handler{chain, {.drop_rate = 0.5, .seed = 3}};
  handler.begin_step(0);
  chain.pass();
  dropbp::RunningSensitivity running(size);
  const HandlerState before = handler.state();
  const std::vector<double> costs = to_vector(handler.costs());
  const std::vector<double> values{4, 3, 2, 1}, rates(size, 0.75);
  const auto refused = [&](auto call) {
    const std::string what = "while a measurement runs, the handler cannot begin a step";
    check_throws<std::logic_error>(
        [&] { handler.measure_sensitivities([&] { chain.pass(), call(); }); }, {what});
    check_throws<std::logic_error>(
        [&] { handler.measure_costs([&] { chain.pass(), call(); }, dropbp::SteadyClock{}); },
        {what});
    CHECK(handler.state() == before);
    CHECK(to_vector(handler.costs()) == costs);
  };
  refused([&] { handler.set_drop_rate(0.75); });
  refused([&] { handler.set_drop_rates(rates); });
  refused([&] { handler.set_costs(values); });
  refused([&] { handler.update_costs(); });
  refused([&] { handler.allocate(values); });
  refused([&] { handler.observe_gradients(running, values); });
  refused([&] { handler.report(); });
  refused([&] { handler.state(); });
  CHECK(running == dropbp::RunningSensitivity(size));
  check_throws<std::invalid_argument>(
      [&] { handler.measure_costs([&] { chain.pass(); }, dropbp::SteadyClock{}, 0); },
      {"at least one pass", "0 were"});
}

TEST_CASE("The largest 64-bit number is refused as a step, since no step can follow it") {
  Chain chain;
  DropBPHandler handler{chain, {.drop_rate = 0.5, .seed = 3}};
  const std::uint64_t last = ~std::uint64_t{0};
  handler.begin_step(5);
  const HandlerState before = handler.state();
  check_throws<std::invalid_argument>([&] { handler.begin_step(last); },
                                      {"below 2^64 - 1", std::to_string(last)});
  check_throws<std::invalid_argument>(
      [&] { handler.begin_step(DropPlan(std::vector<std::uint8_t>(size), true, last)); },
      {"below 2^64 - 1"});
  CHECK(handler.state() == before);
  handler.begin_step(last - 1);
  CHECK(handler.state().next_step == last);
}

TEST_CASE("A state with numbers that no handler reaches is refused and changes nothing") {
  Chain chain;
  DropBPHandler handler{chain, {.drop_rate = 0.5, .seed = 5}};
  handler.allocate(std::vector<double>{1, 2, 3, 4});
  for (std::uint64_t step = 0; step < 6; ++step) handler.begin_step(step), chain.pass();
  const HandlerState before = handler.state();
  const auto refused = [&](std::initializer_list<std::string_view> parts, auto spoil) {
    HandlerState state = before;
    state.seed = 6;
    spoil(state);
    check_throws<std::invalid_argument>([&] { handler.restore(state); }, parts);
    CHECK(handler.state() == before);
  };
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(),
                           std::numeric_limits<double>::infinity(), -1.0, -1e-300})
    refused({"finite and not negative", "that of branch 2"},
            [&](auto& state) { state.sensitivities[2] = bad; });
  refused({"each micro-step of a state (6)", "branch 1"}, [](auto& state) { ++state.kept[1]; });
  refused({"each micro-step of a state (6)", "branch 3"}, [](auto& state) { ++state.dropped[3]; });
  refused({"each micro-step of a state (7)", "branch 0"}, [](auto& state) { ++state.micro_steps; });
  refused({"branch 0"}, [](auto& state) { state.kept[0] = 8, state.dropped[0] -= 8 - 6; });
  refused({"branch 0"}, [](auto& state) {  // the sum wraps around to 6
    state.kept[0] = 7, state.dropped[0] = ~std::uint64_t{0};
  });
  refused({"fewer than 2^63"}, [](auto& state) {
    state.micro_steps = ~std::uint64_t{0};
    state.kept.assign(size, state.micro_steps), state.dropped.assign(size, 0);
  });
  handler.restore(before);
  CHECK(handler.state() == before);
}

TEST_CASE("A rate of -0 gives the same fingerprint as a rate of 0") {
  dropbp::DropSchedule<> positive({1.0, 1.0}, {.drop_rate = 0.0}),
      negative({1.0, 1.0}, {.drop_rate = -0.0});
  const auto same = [&] {
    CHECK(negative.plan(4) == positive.plan(4));
    CHECK(negative.plan(4).fingerprint() == positive.plan(4).fingerprint());
    CHECK_FALSE(std::signbit(negative.drop_rates()[0]));
    CHECK_FALSE(std::signbit(negative.drop_rate()));
  };
  same();
  positive.set_drop_rates(std::vector<double>{0.0, 0.5});
  negative.set_drop_rates(std::vector<double>{-0.0, 0.5});
  same();
  positive.restore(0, dropbp::PlanPer::micro_step, 0.0, std::vector<double>{0.0, 0.0});
  negative.restore(0, dropbp::PlanPer::micro_step, -0.0, std::vector<double>{-0.0, 0.0});
  same();
  // -0 from a policy, and from a limit.
  struct Negative {
    std::vector<double> allocate(const dropbp::AllocationInput&) const { return {-0.0, 0.5}; }
  };
  struct Limit : dropbp::BernoulliSampling {
    void limit(std::span<double> rates, const dropbp::SamplingInput&) const { rates[0] = -0.0; }
  };
  positive.set_drop_rates(std::vector<double>{0.0, 0.5});
  negative.set_drop_rate(positive.drop_rate());
  negative.allocate(std::vector<double>{1.0, 1.0}, Negative{});
  same();
  dropbp::DropSchedule<Limit> limited({1.0, 1.0}, {.drop_rate = 0.5});
  limited.set_drop_rates(std::vector<double>{0.3, 0.5});
  CHECK(limited.plan(4).fingerprint() == positive.plan(4).fingerprint());
}

TEST_CASE("A limit that returns an invalid rate is refused") {
  struct Limit : dropbp::BernoulliSampling {
    double rate = 0.5;
    void limit(std::span<double> rates, const dropbp::SamplingInput&) const { rates[1] = rate; }
  };
  for (const double bad : {-0.5, 1.5, std::numeric_limits<double>::quiet_NaN()})
    check_throws<std::invalid_argument>(
        [&] {
          Limit limit;
          limit.rate = bad;
          dropbp::DropSchedule<Limit>({1.0, 1.0}, {}, limit);
        },
        {"the drop rate of branch 1"});
}

TEST_CASE("The gradient scale follows the rates that drew the plan") {
  Chain chain;
  DropBPHandler handler{chain,
                        {.drop_rate = 0.5,
                         .plan_per = dropbp::PlanPer::step,
                         .gradient_scaling = dropbp::GradientScaling::inverse_keep_rate}};
  handler.begin_step(DropPlan(std::vector<std::uint8_t>(size)));
  chain.pass();
  const double gradient = chain.journals[0].parameter_gradient;
  handler.set_drop_rate(0.75);
  handler.begin_micro_step(1);  // still the same decisions
  chain.pass();
  CHECK(chain.journals[0].parameter_gradient == gradient);
  handler.begin_step(DropPlan(std::vector<std::uint8_t>(size), true, 1));
  chain.pass();
  CHECK(chain.journals[0].parameter_gradient > 1.5 * gradient);
}
