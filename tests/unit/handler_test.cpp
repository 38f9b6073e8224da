// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The handler with a whole model: steps, sensitivities, rates, counts, and models that change
// during training.
#include "dropbp/handler.hpp"
#include "dropbp/layer.hpp"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/recorder.hpp"
#include "support/small_net.hpp"
#include "support/throws.hpp"

using namespace dropbp_test;
using dropbp::DropBPHandler;
using dropbp::DropBPLayer;
using dropbp::DropPlan;
using dropbp::PlanPer;
using test::check_throws;

namespace {

// A chain of Recorders, each with a journal of its own.
struct Chain {
  std::vector<Journal> journals;
  std::vector<DropBPLayer<Recorder<>>> layers;

  explicit Chain(std::size_t size) : journals(size) {
    for (Journal& journal : journals) layers.emplace_back(Recorder<>(journal));
  }
  template <class Visit>
  void for_each_layer(Visit&& visit) {
    for (auto& layer : layers) visit(layer);
  }
  void forward() {
    std::vector<float> x{1e-6f};
    for (auto& layer : layers) x = layer.forward(std::move(x));
  }
  void backward() {
    std::vector<float> g{1e-6f};
    for (std::size_t i = layers.size(); i-- > 0;) g = layers[i].backward(std::move(g));
  }
};

std::vector<double> to_vector(std::span<const double> values) {
  return {values.begin(), values.end()};
}

std::vector<std::uint8_t> only(std::size_t dropped, std::size_t size) {
  std::vector<std::uint8_t> mask(size);
  if (dropped < size) mask[dropped] = 1;
  return mask;
}

}  // namespace

TEST_CASE("Every layer gets its decision from the plan, independent of its type") {
  LayerNet<float> net;
  DropBPHandler handler{net, {.drop_rate = 0.5, .seed = 1}};
  for (std::uint64_t step = 0; step < 50; ++step) {
    handler.begin_step(step);
    CHECK(handler.plan() == handler.schedule().plan(step));
    std::size_t i = 0;
    net.for_each_layer([&](auto& layer) { CHECK(layer.dropped() == handler.plan().dropped(i++)); });
    CHECK(handler.all_dropped() == handler.plan().all_dropped());
    CHECK(handler.backward_needed() == handler.plan().backward_needed());
  }
}

TEST_CASE("The loss at p = 0.5 has the bits of the loss at p = 0") {
  LayerNet<float> net;
  DropBPHandler handler{net, {.drop_rate = 0.0}};
  handler.begin_step(0);
  const std::vector<float> complete = net.forward();
  handler.set_drop_rate(0.5);
  for (std::uint64_t step = 0; step < 20; ++step) {
    handler.begin_step(step);
    CHECK(net.forward() == complete);
  }
}

TEST_CASE("Costs come from the layers and are read again on request") {
  LayerNet<float> net;
  DropBPHandler handler{net};
  CHECK(to_vector(handler.costs()) == std::vector<double>{3, 1, 2, 3, 1, 2, 3, 1, 2, 3});
  net.linear[0].set_cost(30.0);
  handler.update_costs();
  CHECK(handler.costs()[0] == 30.0);
  net.linear[0].set_cost(0.0);
  CHECK_THROWS_AS(handler.update_costs(), std::invalid_argument);
  CHECK(handler.costs()[0] == 30.0);
}

TEST_CASE("A model without layers, and one with invalid costs, is refused") {
  Chain empty(0);
  CHECK_THROWS_AS(DropBPHandler{empty}, std::invalid_argument);
  Chain chain(2);
  for (const double bad : {0.0, -1.0, std::numeric_limits<double>::quiet_NaN(),
                           std::numeric_limits<double>::infinity()}) {
    chain.layers[1].set_cost(bad);
    CHECK_THROWS_AS(DropBPHandler{chain}, std::invalid_argument);
  }
  chain.layers[1].set_cost(1.0);
  for (const double bad : {-0.5, 1.5, std::numeric_limits<double>::quiet_NaN()})
    CHECK_THROWS_AS((DropBPHandler{chain, {.drop_rate = bad}}), std::invalid_argument);
}

TEST_CASE("Layers may move in memory between steps, and between forward and backward") {
  Chain chain(3);
  DropBPHandler handler{chain, {.drop_rate = 0.5, .seed = 4}};
  for (std::uint64_t step = 0; step < 20; ++step) {
    std::vector<DropBPLayer<Recorder<>>> moved;
    for (auto& layer : chain.layers) moved.push_back(std::move(layer));
    chain.layers = std::move(moved);
    handler.begin_step(step);
    chain.forward();
    chain.layers.reserve(chain.layers.capacity() + 1);
    chain.backward();
  }
  CHECK(handler.report().consistent());
}

TEST_CASE("A model that gained or lost a layer is detected, and works again with its old layers") {
  Chain chain(3), longer(4), shorter(2);
  DropBPHandler handler{chain, {.seed = 4}};
  handler.begin_step(0);
  chain.forward();
  chain.backward();
  const dropbp::HandlerState before = handler.state();
  const DropPlan plan = handler.plan();
  for (Chain* const changed : {&longer, &shorter}) {
    chain.layers.swap(changed->layers);
    CHECK_THROWS_AS(handler.begin_step(1), std::logic_error);
    CHECK_THROWS_AS(handler.begin_step(DropPlan(only(0, 3))), std::logic_error);
    CHECK_THROWS_AS(handler.begin_micro_step(1), std::logic_error);
    CHECK_THROWS_AS(handler.begin_evaluation(), std::logic_error);
    CHECK_THROWS_AS(handler.report(), std::logic_error);
    CHECK_THROWS_AS(handler.state(), std::logic_error);
    dropbp::HandlerState other = before;
    other.seed = 99;
    CHECK_THROWS_AS(handler.restore(other), std::logic_error);
    CHECK_THROWS_AS(handler.update_costs(), std::invalid_argument);
    CHECK(handler.plan() == plan);
    chain.layers.swap(changed->layers);
    CHECK(handler.state() == before);
  }
  handler.begin_step(1);
  chain.forward();
  chain.backward();
  CHECK(handler.report().micro_steps == 2);
  CHECK(handler.report().consistent());
}

TEST_CASE("A plan of another size is refused and changes nothing") {
  Chain chain(3);
  DropBPHandler handler{chain};
  handler.begin_step(5);
  const DropPlan plan = handler.plan();
  for (const std::size_t other : {std::size_t{2}, std::size_t{4}})
    CHECK_THROWS_AS(handler.begin_step(DropPlan(only(0, other))), std::invalid_argument);
  check_throws<std::logic_error>([&] { handler.begin_step(DropPlan()); },
                                 {"must be drawn before", "default-constructed"});
  CHECK_THROWS_AS(handler.begin_micro_step(0x1000000), std::invalid_argument);
  CHECK(handler.plan() == plan);
  CHECK(handler.report().micro_steps == 1);
}

TEST_CASE("A branch has a gradient when any micro-step since begin_step kept it") {
  for (const PlanPer plan_per : {PlanPer::micro_step, PlanPer::step}) {
    Chain chain(16);
    DropBPHandler handler{chain, {.drop_rate = 0.8, .seed = 6, .plan_per = plan_per}};
    for (std::uint64_t step = 0; step < 20; ++step) {
      std::vector<bool> kept(16);
      for (std::uint32_t micro_step = 0; micro_step < 4; ++micro_step) {
        if (micro_step == 0)
          handler.begin_step(step);
        else
          handler.begin_micro_step(micro_step);
        CHECK(handler.plan() == handler.schedule().plan(step, micro_step));
        chain.forward();
        chain.backward();
        for (std::size_t i = 0; i < 16; ++i) {
          kept[i] = kept[i] || handler.plan().kept(i);
          CHECK(handler.has_gradient(i) == kept[i]);
        }
      }
    }
    CHECK_THROWS_AS(handler.has_gradient(16), std::invalid_argument);
    CHECK(handler.report().micro_steps == 80);
    CHECK(handler.report().consistent());
    // A step with a given plan begins anew, too.
    handler.begin_step(DropPlan(only(3, 16), true, 20));
    handler.begin_step(DropPlan(std::vector<std::uint8_t>(16, 1), true, 21));
    for (std::size_t i = 0; i < 16; ++i) CHECK_FALSE(handler.has_gradient(i));
  }
}

TEST_CASE(
    "Micro-steps, and questions about a step, need a step that has begun; micro-steps must "
    "increase") {
  Chain chain(16);
  DropBPHandler handler{chain, {.drop_rate = 0.5, .seed = 6}};
  const auto refuse_all = [&] {
    CHECK_THROWS_AS(handler.begin_micro_step(0), std::logic_error);
    CHECK_THROWS_AS(handler.begin_micro_step(1), std::logic_error);
    CHECK_THROWS_AS(handler.has_gradient(0), std::logic_error);
    CHECK(handler.plan() == DropPlan());
  };
  refuse_all();
  const dropbp::HandlerState fresh = handler.state();
  handler.begin_step(3);
  handler.begin_micro_step(2);  // a gap is allowed
  for (const std::uint32_t micro_step : {0u, 1u, 2u}) {
    CHECK_THROWS_AS(handler.begin_micro_step(micro_step), std::logic_error);
    CHECK(handler.plan() == handler.schedule().plan(3, 2));
  }
  CHECK(handler.report().micro_steps == 2);
  handler.restore(fresh);
  refuse_all();
}

TEST_CASE(
    "With one plan per step, new rates or a plan of the user's apply to all its micro-steps") {
  Chain chain(16);
  DropBPHandler handler{chain, {.drop_rate = 0.5, .seed = 6, .plan_per = PlanPer::step}};
  handler.begin_step(3);
  const DropPlan first = handler.plan();
  handler.set_drop_rate(0.9);
  handler.begin_micro_step(1);
  for (std::size_t i = 0; i < 16; ++i) CHECK(handler.plan().kept(i) == first.kept(i));
  CHECK(handler.plan().micro_step() == 1);
  handler.begin_step(DropPlan(only(4, 16), true, 9));
  handler.begin_micro_step(1);
  CHECK(handler.plan() == DropPlan(only(4, 16), true, 9, 1));
  handler.begin_step(4);
  CHECK(handler.plan() == handler.schedule().plan(4));
}

TEST_CASE("A micro-step takes a plan of the user's, whatever plans are drawn per") {
  for (const PlanPer plan_per : {PlanPer::micro_step, PlanPer::step}) {
    Chain chain(16);
    DropBPHandler handler{chain, {.drop_rate = 0.5, .seed = 6, .plan_per = plan_per}};
    const std::vector<std::uint8_t> all(16, 1);
    handler.begin_step(DropPlan(all, true, 9));
    for (const std::uint32_t micro_step : {1u, 4u}) {
      std::vector<std::uint8_t> mask = all;
      mask[micro_step] = 0;
      handler.begin_micro_step(DropPlan(mask, true, 9, micro_step));
      CHECK(handler.plan() == DropPlan(mask, true, 9, micro_step));
      chain.forward();
      chain.backward();
    }
    for (std::size_t i = 0; i < 16; ++i) {
      CHECK(handler.has_gradient(i) == (i == 1 || i == 4));
      CHECK(chain.journals[i].backward == (i == 1 || i == 4 ? 1 : 0));
    }
    CHECK(handler.report().micro_steps == 3);
  }
}

TEST_CASE("A plan that does not fit the step that has begun is refused and changes nothing") {
  Chain chain(16);
  DropBPHandler handler{chain, {.drop_rate = 0.5, .seed = 6}};
  const std::vector<std::uint8_t> none(16), short_one(15);
  CHECK_THROWS_AS(handler.begin_micro_step(DropPlan(none, true, 0, 1)), std::logic_error);
  handler.begin_step(9);
  handler.begin_micro_step(2);
  const DropPlan plan = handler.plan();
  const dropbp::HandlerState before = handler.state();
  check_throws<std::logic_error>([&] { handler.begin_micro_step(DropPlan(none, true, 8, 3)); },
                                 {"of the step that has begun (9)", "this one is of step 8"});
  check_throws<std::logic_error>([&] { handler.begin_micro_step(DropPlan(none, true, 9, 2)); },
                                 {"numbered upwards"});
  CHECK_THROWS_AS(handler.begin_micro_step(DropPlan(short_one, true, 9, 3)), std::invalid_argument);
  CHECK_THROWS_AS(handler.begin_micro_step(DropPlan()), std::logic_error);
  CHECK(handler.plan() == plan);
  CHECK(handler.state() == before);
}

TEST_CASE("New rates apply from the next step on") {
  Chain chain(3);
  DropBPHandler handler{chain, {.drop_rate = 0.0}};
  handler.begin_step(0);
  chain.forward();
  handler.set_drop_rate(1.0);
  CHECK_FALSE(handler.all_dropped());
  CHECK_NOTHROW(chain.backward());
  handler.begin_step(1);
  CHECK(handler.all_dropped());
  const std::vector<double> rates{0, 1, 0};
  handler.set_drop_rates(rates);
  CHECK(to_vector(handler.drop_rates()) == rates);
  handler.begin_step(2);
  CHECK(handler.plan().dropped(1));
  CHECK(handler.plan().kept_count() == 2);
}

TEST_CASE("begin_step between forward and backward is detected by the layers") {
  Chain chain(2);
  DropBPHandler handler{chain, {.drop_rate = 0.5}};
  handler.begin_step(0);
  chain.forward();
  handler.begin_step(0);  // even with the same plan
  CHECK_THROWS_AS(chain.backward(), std::logic_error);
  handler.begin_step(0);
  chain.forward();
  handler.begin_micro_step(1);
  CHECK_THROWS_AS(chain.backward(), std::logic_error);
}

TEST_CASE("The next step or evaluation releases what an interrupted step has saved") {
  Chain chain(3);
  DropBPHandler handler{chain, {.drop_rate = 0.0}};
  const auto holds = [&] {
    std::size_t count = 0;
    for (const auto& layer : chain.layers) count += layer.holds_saved();
    return count;
  };
  handler.begin_step(0);
  chain.forward();
  REQUIRE(holds() == 3);
  handler.begin_step(1);
  CHECK(holds() == 0);
  chain.forward();
  handler.begin_micro_step(1);
  CHECK(holds() == 0);
  chain.forward();
  handler.begin_evaluation();
  CHECK(holds() == 0);
  handler.begin_step(2);
  chain.forward();
  CHECK(holds() == 3);
  chain.backward();
}

TEST_CASE("An evaluation saves nothing, counts no step, and does not change the next step") {
  Chain chain(4);
  DropBPHandler handler{chain, {.drop_rate = 0.0}};
  handler.begin_step(0);
  chain.forward();
  chain.backward();
  handler.begin_evaluation();
  chain.forward();
  CHECK_THROWS_AS(chain.backward(), std::logic_error);
  for (const Journal& journal : chain.journals) {
    CHECK(journal.forward_not_saving == 1);
    CHECK(journal.saved_alive == 0);
  }
  CHECK(handler.report().micro_steps == 1);
  CHECK(handler.report().consistent());
  CHECK(handler.report().branches[0].calls.forward == 2);
  handler.begin_step(1);
  chain.forward();
  chain.backward();
  CHECK(handler.report().consistent());
}

namespace {

struct FullChain {
  std::vector<Journal> journals = std::vector<Journal>(3);
  std::vector<DropBPLayer<FullRecorder<>>> layers;
  FullChain() {
    for (Journal& journal : journals) layers.emplace_back(FullRecorder<>(journal));
  }
  void for_each_layer(auto&& visit) {
    for (auto& layer : layers) visit(layer);
  }
};

}  // namespace

TEST_CASE("If nothing below trains, only the lowest kept branch skips its input gradient") {
  FullChain model;
  DropBPHandler handler{model, {.trainable_below = false}};
  handler.begin_step(DropPlan(only(0, 3), false));
  std::vector<float> x{1}, g{1};
  for (auto& layer : model.layers) x = layer.forward(std::move(x));
  for (std::size_t i = 3; i-- > 0;) g = model.layers[i].backward(std::move(g));
  CHECK(model.layers[0].op().backward_parameters_calls +
            model.layers[0].op().backward_residual_calls ==
        0);
  CHECK(model.layers[1].op().backward_parameters_calls == 1);
  CHECK(model.layers[1].op().backward_residual_calls == 0);
  CHECK(model.layers[2].op().backward_parameters_calls == 0);
  CHECK(model.layers[2].op().backward_residual_calls == 1);
  CHECK(handler.backward_needed());
  handler.begin_step(DropPlan(std::vector<std::uint8_t>(3, 1), false));
  CHECK_FALSE(handler.backward_needed());
}

namespace {

struct FreezableBranch : FullRecorder<> {
  using FullRecorder<>::FullRecorder;
  bool frozen = false;
  bool trainable() const { return !frozen; }
};

struct FreezableChain {
  std::vector<Journal> journals = std::vector<Journal>(4);
  std::vector<DropBPLayer<FreezableBranch>> layers;
  FreezableChain() {
    for (Journal& journal : journals) layers.emplace_back(FreezableBranch(journal));
  }
  void for_each_layer(auto&& visit) {
    for (auto& layer : layers) visit(layer);
  }
  void pass() {
    std::vector<float> x{1}, g{1};
    for (auto& layer : layers) x = layer.forward(std::move(x));
    for (std::size_t i = layers.size(); i-- > 0;) g = layers[i].backward(std::move(g));
  }
};

}  // namespace

TEST_CASE(
    "No backward pass runs below the lowest trainable branch, and each step asks again what is "
    "trainable") {
  FreezableChain model;
  model.layers[0].op().frozen = model.layers[1].op().frozen = model.layers[3].op().frozen = true;
  DropBPHandler handler{model, {.drop_rate = 0.0, .trainable_below = false}};
  CHECK(handler.schedule().plan(0).lowest_kept() == 2);
  handler.begin_step(0);
  model.pass();
  CHECK(handler.report().consistent());
  for (const std::size_t i : {0u, 1u, 2u, 3u}) {
    CAPTURE(i);
    CHECK(model.layers[i].calls().backward == (i >= 2 ? 1 : 0));
    CHECK(handler.has_gradient(i) == (i == 2));
  }
  CHECK(model.layers[2].op().backward_parameters_calls == 1);
  CHECK(model.layers[3].op().backward_residual_calls == 1);

  // A user who unfreezes a branch must see it train.
  model.layers[1].op().frozen = false;
  handler.begin_step(1);
  model.pass();
  CHECK(model.layers[1].op().backward_parameters_calls == 1);
  CHECK(handler.has_gradient(1));
  CHECK_FALSE(handler.has_gradient(0));

  for (auto& layer : model.layers) layer.op().frozen = true;
  handler.begin_step(2);
  CHECK_FALSE(handler.backward_needed());

  // If something below trains, every backward pass is needed; a frozen branch still has no
  // gradient.
  FreezableChain over_embedding;
  over_embedding.layers[0].op().frozen = true;
  DropBPHandler all{over_embedding, {.drop_rate = 0.0}};
  all.begin_step(0);
  over_embedding.pass();
  CHECK(over_embedding.layers[0].calls().backward == 1);
  CHECK_FALSE(all.has_gradient(0));
}

TEST_CASE("A running estimate knows that a branch below everything trainable has sensitivity 0") {
  FreezableChain model;
  model.layers[0].op().frozen = true;
  DropBPHandler handler{model, {.drop_rate = 0.0, .trainable_below = false}};
  dropbp::RunningSensitivity running(handler.size());
  handler.begin_step(0);
  model.pass();
  handler.observe_gradients(running, std::vector<double>{5.0, 1.0, 2.0, 3.0});
  CHECK(running.sensitivities() == std::vector<double>{0.0, 1.0, 2.0, 3.0});
}

namespace {

// Both sensitivities from the gradients of the net by hand, in long double.
std::pair<std::vector<double>, std::vector<double>> sensitivities_by_hand() {
  const HandNet<double> hand;
  const auto all = [&](unsigned dropped) {
    const HandGradients<double> gradients = hand.gradients(dropped, true);
    std::vector<Vector<double>> list{gradients.stem};
    for (std::size_t i = 0; i < branches; ++i)
      list.push_back(gradients.weight[i] ? *gradients.weight[i]
                                         : Vector<double>(hand.weight[i].size()));
    return list;
  };
  const auto norm = [](const Vector<double>& x) {
    long double sum = 0;
    for (const double one : x) sum += static_cast<long double>(one) * one;
    return std::sqrt(sum);
  };
  const auto base = all(0);
  std::vector<double> by_norm(branches), by_distance(branches);
  for (std::size_t i = 0; i < branches; ++i) {
    const auto changed = all(1u << i);
    long double norms = 0, distances = 0;
    for (std::size_t t = 0; t < base.size(); ++t) {
      const long double change = norm(base[t]) - norm(changed[t]);
      norms += change * change;
      for (std::size_t j = 0; j < base[t].size(); ++j) {
        const long double difference = static_cast<long double>(base[t][j]) - changed[t][j];
        distances += difference * difference;
      }
    }
    by_norm[i] = static_cast<double>(norms);
    by_distance[i] = static_cast<double>(distances);
  }
  return {by_norm, by_distance};
}

}  // namespace

TEST_CASE("Measured sensitivities agree with those worked out by hand, in both modes") {
  LayerNet<double> net;
  DropBPHandler handler{net, {.drop_rate = 0.5, .seed = 3}};
  int passes = 0;
  const auto backprop = [&] {
    ++passes;
    net.clear_gradients();
    net.forward();
    net.backward();
  };
  const auto [by_norm, by_distance] = sensitivities_by_hand();
  handler.begin_step(0);
  const std::vector<double> norms = handler.measure_sensitivities(backprop);
  CHECK(passes == 11);
  const std::vector<double> distances =
      handler.measure_sensitivities(backprop, dropbp::GradientSensitivity{});
  CHECK(passes == 22);
  for (std::size_t i = 0; i < branches; ++i) {
    CHECK(norms[i] == Approx(by_norm[i]).epsilon(1e-10));
    CHECK(distances[i] == Approx(by_distance[i]).epsilon(1e-10));
    CHECK(norms[i] > 0.0);
  }
  CHECK(handler.sensitivities().empty());
  CHECK(to_vector(handler.drop_rates()) == std::vector<double>(branches, 0.5));
}

TEST_CASE("A measurement between begin_step and the forward pass does not change the step") {
  LayerNet<double> net, undisturbed;
  DropBPHandler handler{net, {.drop_rate = 0.5, .seed = 3}},
      other{undisturbed, {.drop_rate = 0.5, .seed = 3}};
  const auto measure = [&] {
    handler.measure_sensitivities([&] { net.forward(), net.backward(); });
  };
  for (std::uint64_t step = 0; step < 10; ++step) {
    handler.begin_step(step);
    other.begin_step(step);
    measure();
    net.clear_gradients();
    undisturbed.clear_gradients();
    net.forward();
    undisturbed.forward();
    CHECK(net.backward() == undisturbed.backward());
  }
  CHECK(handler.state() == other.state());
  handler.begin_evaluation();
  measure();
  net.forward();
  CHECK_THROWS_AS(net.backward(), std::logic_error);  // still evaluating
}

TEST_CASE(
    "A backprop that begins a step or a measurement, or runs no layer of the model, is detected") {
  LayerNet<double> net, copy;
  DropBPHandler handler{net, {.drop_rate = 0.5, .seed = 3}};
  handler.begin_step(0);
  const dropbp::HandlerState before = handler.state();
  const DropPlan plan = handler.plan();
  const auto refused = [&](auto backprop) {
    CHECK_THROWS_AS(handler.measure_sensitivities(backprop), std::logic_error);
    CHECK(handler.state() == before);
    CHECK(handler.plan() == plan);
  };
  refused([&] { handler.begin_step(1), net.forward(), net.backward(); });
  refused([&] { handler.begin_step(DropPlan(only(0, branches))), net.forward(), net.backward(); });
  refused([&] { handler.begin_micro_step(1), net.forward(), net.backward(); });
  refused([&] { handler.begin_evaluation(), net.forward(); });
  refused([&] { handler.restore(before), net.forward(), net.backward(); });
  refused([&] { handler.measure_sensitivities([&] { net.forward(), net.backward(); }); });
  refused([&] {});
  refused([&] { net.forward(); });
  refused([&] { copy.forward(), copy.backward(); });
}

TEST_CASE("A measurement does not change counts, plan, rates or later steps") {
  LayerNet<double> net, undisturbed;
  DropBPHandler handler{net, {.drop_rate = 0.5, .seed = 3}},
      other{undisturbed, {.drop_rate = 0.5, .seed = 3}};
  for (std::uint64_t step = 0; step < 10; ++step) {
    if (step == 5) {
      const dropbp::HandlerState before = handler.state();
      const DropPlan plan = handler.plan();
      handler.measure_sensitivities([&] { net.forward(), net.backward(); });
      CHECK(handler.state() == before);
      CHECK(handler.plan() == plan);
      CHECK_THROWS_AS(net.backward(), std::logic_error);
    }
    handler.begin_step(step);
    other.begin_step(step);
    net.clear_gradients();
    undisturbed.clear_gradients();
    net.forward();
    undisturbed.forward();
    CHECK(net.backward() == undisturbed.backward());
  }
  CHECK(handler.state() == other.state());
  CHECK(handler.report().consistent());
}

TEST_CASE("A backprop that throws leaves the handler unchanged") {
  LayerNet<double> net;
  DropBPHandler handler{net, {.drop_rate = 0.5, .seed = 3}};
  handler.begin_step(0);
  net.forward();
  net.backward();
  const dropbp::HandlerState before = handler.state();
  for (int failing = 0; failing <= static_cast<int>(branches); ++failing) {
    int pass = 0;
    CHECK_THROWS_AS(handler.allocate_by_sensitivity([&] {
      net.forward();
      if (pass++ == failing) throw std::runtime_error("no more data");
      net.backward();
    }),
                    std::runtime_error);
    CHECK(handler.state() == before);
  }
  handler.begin_step(1);
  net.forward();
  net.backward();
  CHECK(handler.report().consistent());
}

TEST_CASE(
    "A gradient that is not finite makes a measurement throw and leaves the rates unchanged") {
  LayerNet<double> net;
  DropBPHandler handler{net, {.drop_rate = 0.5}};
  const auto backprop_with = [&](double bad, int at) {
    return [&net, bad, at, pass = 0]() mutable {
      net.clear_gradients();
      net.forward();
      net.backward();
      if (pass++ == at) net.stem_gradient[0] = bad;
    };
  };
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()})
    for (const int at : {0, 1, 10}) {
      const std::string dropped =
          at == 0 ? "nothing dropped" : "branch " + std::to_string(at - 1) + " dropped";
      check_throws<std::runtime_error>(
          [&] { handler.allocate_by_sensitivity(backprop_with(bad, at)); }, {dropped});
      check_throws<std::runtime_error>(
          [&] {
            handler.measure_sensitivities(backprop_with(bad, at), dropbp::GradientSensitivity{});
          },
          {dropped});
    }
  CHECK(to_vector(handler.drop_rates()) == std::vector<double>(branches, 0.5));
  CHECK(handler.sensitivities().empty());
}

namespace {

// A chain that visits a null gradient for each dropped branch. It can also visit too few gradients.
struct NullingChain : Chain {
  using Chain::Chain;
  std::size_t visited = 99;
  template <class Visit>
  void for_each_gradient(Visit&& visit) {
    for (std::size_t i = 0; i < layers.size() && i < visited; ++i) {
      gradient = {journals[i].parameter_gradient};
      visit(layers[i].dropped() ? static_cast<const std::vector<double>*>(nullptr) : &gradient);
    }
  }
  std::vector<double> gradient;
};

}  // namespace

TEST_CASE("A null gradient counts as zero, and a changed number of gradients is detected") {
  NullingChain chain(2);
  DropBPHandler handler{chain};
  int pass = 0;
  const auto backprop = [&] {
    ++pass;
    for (Journal& journal : chain.journals) journal.parameter_gradient = 0.0;
    std::vector<float> x{1};
    for (auto& layer : chain.layers) x = layer.forward(std::move(x));  // 4, then 16
    std::vector<float> g{1};
    for (std::size_t i = 2; i-- > 0;) g = chain.layers[i].backward(std::move(g));
  };
  // Gradients of the factors are x * g: 1 * 4 for the lower branch, 4 * 1 for the upper one. The
  // lower one has 1 if the upper branch is dropped.
  CHECK(handler.measure_sensitivities(backprop) == std::vector<double>{16.0, 16.0 + 9.0});
  CHECK(handler.measure_sensitivities(backprop, dropbp::GradientSensitivity{}) ==
        std::vector<double>{16.0, 16.0 + 9.0});
  pass = 0;
  CHECK_THROWS_AS(handler.measure_sensitivities([&] {
    backprop();
    chain.visited = pass == 2 ? 1 : 99;
  }),
                  std::logic_error);
}

TEST_CASE("allocate sets rates and stores the sensitivities, or changes neither") {
  Chain chain(3);
  DropBPHandler handler{chain, {.drop_rate = 0.5}};
  handler.allocate(std::vector<double>{1, 2, 3});
  const std::vector<double> rates = to_vector(handler.drop_rates());
  CHECK(rates[0] > rates[2]);
  CHECK(to_vector(handler.sensitivities()) == std::vector<double>{1, 2, 3});
  CHECK_THROWS_AS(handler.allocate(std::vector<double>{1, 2}), std::invalid_argument);
  CHECK_THROWS_AS(
      handler.allocate(std::vector<double>{1, 2, std::numeric_limits<double>::quiet_NaN()}),
      std::invalid_argument);
  CHECK(to_vector(handler.drop_rates()) == rates);
  CHECK(to_vector(handler.sensitivities()) == std::vector<double>{1, 2, 3});
  handler.set_drop_rate(0.95);
  CHECK_THROWS_AS(handler.allocate(std::vector<double>{3, 2, 1}), std::invalid_argument);
  CHECK(to_vector(handler.drop_rates()) == std::vector<double>(3, 0.95));
  CHECK(to_vector(handler.sensitivities()) == std::vector<double>{1, 2, 3});
  handler.set_drop_rate(0.5);
  handler.allocate(handler.sensitivities());  // the argument is the handler's own array
  CHECK(to_vector(handler.drop_rates()) == rates);
}

TEST_CASE("allocate_by_sensitivity measures and allocates") {
  LayerNet<double> net;
  DropBPHandler handler{net, {.drop_rate = 0.5}};
  const auto backprop = [&] {
    net.clear_gradients();
    net.forward();
    net.backward();
  };
  const std::vector<double> measured = handler.measure_sensitivities(backprop);
  CHECK(to_vector(handler.allocate_by_sensitivity(backprop)) == measured);
  dropbp::DropSchedule<> schedule(to_vector(handler.costs()), {.drop_rate = 0.5});
  schedule.allocate(measured, dropbp::GreedyAllocation{});
  CHECK(to_vector(handler.drop_rates()) == to_vector(schedule.drop_rates()));
}

TEST_CASE("A handler restored from a state continues with the same plans and counts") {
  Chain first(8), second(8);
  DropBPHandler handler{first, {.drop_rate = 0.5, .seed = 17}};
  handler.allocate(std::vector<double>{1, 5, 2, 7, 3, 4, 9, 6});
  const auto run = [](auto& which, Chain& chain, std::uint64_t from, std::uint64_t to) {
    for (std::uint64_t step = from; step < to; ++step)
      for (std::uint32_t micro_step = 0; micro_step < 2; ++micro_step) {
        if (micro_step == 0)
          which.begin_step(step);
        else
          which.begin_micro_step(micro_step);
        chain.forward();
        chain.backward();
      }
  };
  run(handler, first, 0, 10);
  const dropbp::HandlerState saved = dropbp::handler_state_from_text(to_text(handler.state()));
  CHECK(saved == handler.state());
  run(handler, first, 10, 30);

  DropBPHandler resumed{second, {.drop_rate = 0.1, .seed = 1, .plan_per = PlanPer::step}};
  run(resumed, second, 0, 3);
  resumed.restore(saved);
  CHECK(resumed.state() == saved);
  CHECK(saved.next_step == 10);
  run(resumed, second, saved.next_step, 30);
  CHECK(resumed.state() == handler.state());
  CHECK(resumed.plan() == handler.plan());
  CHECK(resumed.report().consistent());
}

TEST_CASE("A state that does not fit is refused and changes nothing") {
  Chain chain(2);
  DropBPHandler handler{chain, {.seed = 5}};
  handler.begin_step(3);
  const dropbp::HandlerState before = handler.state();
  const auto refused = [&](auto spoil) {
    dropbp::HandlerState state = before;
    state.seed = 6;
    spoil(state);
    CHECK_THROWS_AS(handler.restore(state), std::invalid_argument);
    CHECK(handler.state() == before);
  };
  refused([](auto& state) { state.drop_rates.pop_back(); });
  refused([](auto& state) { state.kept.push_back(0); });
  refused([](auto& state) { state.dropped.clear(); });
  refused([](auto& state) { state.calls.pop_back(); });
  refused([](auto& state) { state.sensitivities.push_back(1); });
  refused([](auto& state) { state.drop_rates[1] = 1.5; });
  refused([](auto& state) { state.drop_rates[1] = std::numeric_limits<double>::quiet_NaN(); });
  refused([](auto& state) { state.drop_rate = -1; });
}

TEST_CASE("A handler's counts start at 0 at its construction, even if the layers ran before") {
  Chain chain(2);
  chain.forward();
  chain.backward();
  DropBPHandler handler{chain, {.drop_rate = 0.5}};
  handler.begin_step(0);
  chain.forward();
  chain.backward();
  CHECK(handler.report().consistent());
  CHECK(handler.report().branches[0].calls.forward == 1);
}

TEST_CASE("A user's sampling policy draws the plans") {
  struct EveryOther {
    struct Prepared {};
    Prepared prepare(const dropbp::SamplingInput&) const { return {}; }
    void draw(const Prepared&, const dropbp::CounterRandom&,
              std::span<std::uint8_t> dropped) const {
      for (std::size_t i = 0; i < dropped.size(); ++i) dropped[i] = i % 2;
    }
  };
  Chain chain(4);
  DropBPHandler handler{chain, {}, dropbp::UniformAllocation{}, EveryOther{}};
  handler.begin_step(0);
  CHECK(handler.plan().kept_count() == 2);
  CHECK(handler.plan().dropped(1));
}
