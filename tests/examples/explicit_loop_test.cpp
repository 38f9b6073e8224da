// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The two trainers of examples/explicit_loop, in double: their gradients are those of the
// mathematics, with and without dropped branches, and what is dropped is left alone.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string_view>
#include <vector>

#include "../../examples/explicit_loop/gpt2.hpp"
#include "dropbp/dropbp.hpp"
#include "dropbp/parameter_ranges.hpp"
#include "support/catch.hpp"
#include "support/worst.hpp"

// The programs themselves: a main in a namespace is a function like any other.
namespace plain {
#include "../../examples/explicit_loop/plain.cpp"
}
namespace with_dropbp {
#include "../../examples/explicit_loop/with_dropbp.cpp"
}

namespace {

using Bytes = std::vector<std::uint8_t>;
using Mask = std::vector<std::uint8_t>;

Shape small_shape(bool trains_embeddings) {
  return {.layers = 2,
          .heads = 2,
          .hidden = 6,
          .sequence = 5,
          .batch = 2,
          .vocabulary = 7,
          .trains_embeddings = trains_embeddings};
}
const Bytes tokens{0, 3, 1, 6, 2, 5, 4, 4, 0, 1}, targets{3, 1, 6, 2, 0, 4, 4, 0, 1, 2};

// A trainer and its arena.
template <template <class> class Trainer, class Real>
struct Net {
  std::vector<Real> memory;
  Trainer<Real> trainer;

  Net(const Shape& shape, std::array<std::size_t, 2> slots)
      : memory(needed(shape, slots)), trainer(cut(shape, slots)) {
    trainer.initialise_all(3);
    // Norms and biases away from 1 and 0, so that their parts of the gradient show.
    std::mt19937_64 random(5);
    for (std::size_t branch = 0; branch < trainer.branches(); ++branch)
      for (Parameter<Real>* p : trainer.parameters(branch))
        for (std::size_t i = 0; i < p->size; ++i)
          p->value[i] += static_cast<Real>(random() >> 40) * Real(0x1p-26);
  }

  static std::size_t needed(const Shape& shape, std::array<std::size_t, 2> slots) {
    Arena<Real> counting;
    Trainer<Real>(counting, shape, slots);
    return counting.used;
  }
  Trainer<Real> cut(const Shape& shape, std::array<std::size_t, 2> slots) {
    Arena<Real> arena{memory.data()};
    return Trainer<Real>(arena, shape, slots);
  }

  // Those that train.
  std::vector<Parameter<Real>*> parameters() {
    std::vector<Parameter<Real>*> all{&trainer.ends.head, &trainer.ends.norm_w,
                                      &trainer.ends.norm_b};
    if (trainer.shape.trains_embeddings)
      all.insert(all.end(), {&trainer.ends.bytes, &trainer.ends.positions});
    for (std::size_t branch = 0; branch < trainer.branches(); ++branch)
      for (Parameter<Real>* p : trainer.parameters(branch)) all.push_back(p);
    return all;
  }
};

using PlainNet = Net<plain::Trainer, double>;
using DroppingNet = Net<with_dropbp::Trainer, double>;

// The loss of a net in which the outputs of some branches are constants: its gradient is what
// dropping them must give.
struct FrozenNet : PlainNet {
  std::vector<std::vector<double>> outputs;

  FrozenNet(const Shape& shape, const Mask& dropped)
      : PlainNet(shape, {shape.layers, shape.layers}), outputs(trainer.branches()) {
    trainer.ends.embed(trainer.stream, tokens.data(), shape);
    for (std::size_t branch = 0; branch < trainer.branches(); ++branch) {
      std::vector<double> before(trainer.stream, trainer.stream + shape.stream());
      run(branch);
      if (dropped[branch] == 0) continue;
      for (std::size_t i = 0; i < before.size(); ++i)
        outputs[branch].push_back(trainer.stream[i] - before[i]);
    }
  }

  double loss() {
    trainer.ends.embed(trainer.stream, tokens.data(), trainer.shape);
    for (std::size_t branch = 0; branch < trainer.branches(); ++branch) {
      if (outputs[branch].empty()) run(branch);
      for (std::size_t i = 0; i < outputs[branch].size(); ++i)
        trainer.stream[i] += outputs[branch][i];
    }
    return trainer.ends.loss(trainer.stream, targets.data(), trainer.shape);
  }

 private:
  void run(std::size_t branch) {
    if (branch % 2 == 0)
      trainer.attention[branch / 2].forward(trainer.stream, trainer.slot(branch), trainer.shape);
    else
      trainer.mlp[branch / 2].forward(trainer.stream, trainer.slot(branch), trainer.shape);
  }
};

// The largest difference between the gradients of `net` and differences, of fourth order, of the
// frozen net's loss.
template <class AnyNet>
double worst_difference(AnyNet& net, FrozenNet& frozen) {
  const auto parameters = net.parameters();
  const auto varied = frozen.parameters();
  REQUIRE(parameters.size() == varied.size());
  const double step = 2e-4;
  double worst = 0;
  for (std::size_t p = 0; p < parameters.size(); ++p)
    for (std::size_t i = 0; i < parameters[p]->size; ++i) {
      double& value = varied[p]->value[i];
      const double before = value;
      const auto slope = [&](double distance) {
        value = before + distance;
        const double above = frozen.loss();
        value = before - distance;
        return (above - frozen.loss()) / (2 * distance);
      };
      const double difference = (4 * slope(step) - slope(2 * step)) / 3;
      value = before;
      dropbp::test::keep_worst(worst, std::abs(difference - parameters[p]->grad[i]));
    }
  return worst;
}

void forward_and_backward(auto& trainer) {
  trainer.forward(tokens.data(), targets.data());
  trainer.backward(tokens.data());
}

}  // namespace

TEST_CASE("explicit_loop: the plain gradient is that of finite differences") {
  for (const bool trains_embeddings : {false, true}) {
    const Shape shape = small_shape(trains_embeddings);
    PlainNet net(shape, {shape.layers, shape.layers});
    forward_and_backward(net.trainer);
    FrozenNet frozen(shape, {0, 0, 0, 0});
    CHECK(worst_difference(net, frozen) < 1e-9);
  }
}

TEST_CASE(
    "explicit_loop: the gradient under every mask is that of a net whose dropped branches are "
    "constants") {
  for (const bool trains_embeddings : {false, true})
    for (unsigned bits = 0; bits < 16; ++bits) {
      const Shape shape = small_shape(trains_embeddings);
      Mask mask(4);
      std::array<std::size_t, 2> slots{0, 0};
      std::vector<std::uint32_t> groups{0, 1, 0, 1};
      for (unsigned branch = 0; branch < 4; ++branch) {
        mask[branch] = bits >> branch & 1;
        if (mask[branch] == 0) ++slots[branch % 2];
      }
      for (std::size_t& count : slots) count = std::min(count + 1, shape.layers);
      DroppingNet net(shape, slots);  // no more slots than this mask needs
      net.trainer.plan = dropbp::DropPlan(mask, trains_embeddings, 0, 0, 0, groups);
      forward_and_backward(net.trainer);
      FrozenNet frozen(shape, mask);
      CHECK(worst_difference(net, frozen) < 1e-9);
      bool absent = true;
      for (std::size_t branch = 0; branch < 4; ++branch)
        if (mask[branch] != 0)
          for (const Parameter<double>* p : net.trainer.parameters(branch))
            absent =
                absent && std::all_of(p->grad, p->grad + p->size, [](double g) { return g == 0; });
      CHECK(absent);
    }
}

TEST_CASE(
    "explicit_loop: the lowest kept branch computes no gradient of its input where nothing below "
    "trains") {
  for (const bool trains_embeddings : {false, true}) {
    const Shape shape = small_shape(trains_embeddings);
    const auto gradient_of_the_stream = [&](const Mask& mask) {
      DroppingNet net(shape, {2, 2});
      net.trainer.plan = dropbp::DropPlan(mask, trains_embeddings, 0, 0, 0,
                                          std::vector<std::uint32_t>{0, 1, 0, 1});
      forward_and_backward(net.trainer);
      return std::vector<double>(net.trainer.grad, net.trainer.grad + shape.stream());
    };
    for (std::size_t kept = 0; kept < 4; ++kept) {
      Mask mask(4, 1);
      const std::vector<double> passed = gradient_of_the_stream(mask);
      mask[kept] = 0;
      CHECK((gradient_of_the_stream(mask) == passed) != trains_embeddings);
    }
  }
}

TEST_CASE(
    "explicit_loop: without drops both trainers have the same losses and weights, bit for bit") {
  const Shape shape = small_shape(true);
  Net<plain::Trainer, float> one(shape, {2, 2});
  Net<with_dropbp::Trainer, float> other(shape, {2, 2});
  const dropbp::DropSchedule schedule{std::vector<double>(4, 1.0),
                                      {.drop_rate = 0.0, .groups = {0, 1, 0, 1}},
                                      dropbp::FixedBudgetSampling{}};
  for (std::uint64_t step = 0; step < 20; ++step) {
    other.trainer.plan = schedule.plan(step);
    CHECK(one.trainer.forward(tokens.data(), targets.data()) ==
          other.trainer.forward(tokens.data(), targets.data()));
    one.trainer.backward(tokens.data());
    other.trainer.backward(tokens.data());
    one.trainer.update(0.01f);
    other.trainer.update(0.01f);
  }
  const std::size_t count = shape.parameters();
  CHECK(one.trainer.all.used == count);
  CHECK(
      std::equal(one.trainer.all.values, one.trainer.all.values + count, other.trainer.all.values));
}

TEST_CASE("explicit_loop: the optimizer leaves frozen embeddings alone") {
  const Shape shape = small_shape(false);
  const auto unchanged = [&](auto& net) {
    const std::vector<double> before(net.trainer.all.values,
                                     net.trainer.all.values + shape.parameters());
    forward_and_backward(net.trainer);
    net.trainer.update(0.01);
    std::size_t same = 0;
    while (same < before.size() && net.trainer.all.values[same] == before[same]) ++same;
    return same;
  };
  PlainNet plain(shape, {2, 2});
  DroppingNet dropping(shape, {2, 2});
  dropping.trainer.plan =
      dropbp::DropPlan(Mask(4, 0), false, 0, 0, 0, std::vector<std::uint32_t>{0, 1, 0, 1});
  CHECK(unchanged(plain) == shape.embeddings());
  CHECK(unchanged(dropping) == shape.embeddings());
}

TEST_CASE("explicit_loop: the loss of a step does not depend on what it drops") {
  const Shape shape = small_shape(false);
  double losses[2];
  for (const std::uint8_t dropped : {std::uint8_t{0}, std::uint8_t{1}}) {
    DroppingNet net(shape, {2, 2});
    net.trainer.plan =
        dropbp::DropPlan(Mask(4, dropped), false, 0, 0, 0, std::vector<std::uint32_t>{0, 1, 0, 1});
    losses[dropped] = net.trainer.forward(tokens.data(), targets.data());
  }
  CHECK(losses[0] == losses[1]);
}

TEST_CASE(
    "explicit_loop: the optimizer leaves dropped branches alone and counts the steps of each") {
  const Shape shape = small_shape(true);
  const dropbp::DropSchedule schedule{std::vector<double>(4, 1.0),
                                      {.drop_rate = 0.5, .groups = {0, 1, 0, 1}},
                                      dropbp::FixedBudgetSampling{}};
  DroppingNet net(shape, {schedule.slot_count(0), schedule.slot_count(1)});
  std::array<std::uint64_t, 4> kept{};
  // AdamW once more, tensor by tensor.
  std::vector<double> moments(shape.parameters()), squares(shape.parameters());
  double worst = 0;
  for (std::uint64_t step = 0; step < 30; ++step) {
    net.trainer.plan = schedule.plan(step);
    for (std::size_t branch = 0; branch < 4; ++branch)
      kept[branch] += net.trainer.plan.kept(branch);
    const std::vector<double> before = net.memory;
    forward_and_backward(net.trainer);
    const Parameters<double>& all = net.trainer.all;
    const std::vector<double> grads(all.grads, all.grads + all.used);
    std::vector<double> values(all.values, all.values + all.used);
    net.trainer.update(0.01);
    for (std::size_t branch = 0; branch < 4; ++branch) {
      if (net.trainer.plan.dropped(branch)) continue;
      const double t = static_cast<double>(kept[branch]);
      for (const Parameter<double>* p : net.trainer.parameters(branch))
        for (std::size_t i = p->offset; i < p->offset + p->size; ++i) {
          moments[i] += 0.1 * (grads[i] - moments[i]);
          squares[i] += 0.01 * (grads[i] * grads[i] - squares[i]);
          const double mean = moments[i] / (1 - std::pow(0.9, t));
          const double deviation = std::sqrt(squares[i] / (1 - std::pow(0.99, t)));
          values[i] -= 0.01 * (mean / (deviation + 1e-8) + 0.01 * values[i]);
          dropbp::test::keep_worst(worst, std::abs(values[i] - all.values[i]));
        }
    }
    for (std::size_t branch = 0; branch < 4; ++branch) {
      CHECK(net.trainer.ranges.updates(branch) == kept[branch]);
      for (const Parameter<double>* p : net.trainer.parameters(branch)) {
        const auto same = [&](const double* array) {
          const double* now = array + p->offset;
          return std::equal(now, now + p->size, before.data() + (now - net.memory.data()));
        };
        CHECK((same(all.values) && same(all.moments) && same(all.squares)) ==
              net.trainer.plan.dropped(branch));
      }
    }
  }
  CHECK(*std::min_element(kept.begin(), kept.end()) > 0);
  CHECK(worst < 1e-12);
}
