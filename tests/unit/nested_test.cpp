// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Branches inside branches. If the outer branch is dropped, the inner one is dropped too, and all
// counts include that.
#include "dropbp/dropbp.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/throws.hpp"

using dropbp::DropBPHandler;
using dropbp::DropBPLayer;
using dropbp::DropPlan;
using dropbp::DropSchedule;
using test::check_throws;

namespace {

using Mask = std::vector<std::uint8_t>;
using Parents = std::vector<std::uint32_t>;
using Values = std::vector<double>;

Mask mask_of(unsigned bits, std::size_t size) {
  Mask mask;
  for (std::size_t i = 0; i < size; ++i)
    mask.push_back(static_cast<std::uint8_t>((bits >> i) & 1u));
  return mask;
}

// Calls use(parents) for every nesting of `size` branches.
void for_each_nesting(std::size_t size, const std::function<void(const Parents&)>& use) {
  Parents parents(size);
  const std::function<void(std::size_t)> choose = [&](std::size_t i) {
    if (i < size) {
      for (parents[i] = 0; parents[i] < size; ++parents[i]) choose(i + 1);
      return;
    }
    for (std::size_t b = 0; b < size; ++b) {
      std::size_t ancestor = b;
      for (std::size_t depth = 0; depth < size; ++depth) ancestor = parents[ancestor];
      if (parents[ancestor] != ancestor) return;  // a cycle
    }
    use(parents);
  };
  choose(0);
}

// w x, or f(w x) where f contains a residual branch.
struct Product {
  double weight;
  Values gradient = {};  // absent while empty
  bool is_trained = true;
  DropBPLayer<Product>* inner = nullptr;
  double* ticks = nullptr;  // its own forward pass adds 1, its own backward pass 10

  struct Saved {
    Values x;
  };
  static constexpr bool backward_is_repeatable = true;
  bool trainable() const { return is_trained; }

  Values forward(const Values& x, Saved* saved) {
    if (ticks != nullptr) *ticks += 1;
    if (saved != nullptr) saved->x = x;
    const Values product{weight * x[0]};
    return inner != nullptr ? inner->forward(product) : product;
  }
  Values backward(const Values& grad_output, Saved& saved) {
    if (ticks != nullptr) *ticks += 10;
    const double g = (inner != nullptr ? inner->backward(grad_output) : grad_output)[0];
    gradient.resize(1);
    gradient[0] += g * saved.x[0];
    return {g * weight};
  }
  template <class Visit>
  void for_each_gradient(Visit&& visit) {
    visit(gradient.empty() ? static_cast<const Values*>(nullptr) : &gradient);
  }
};

// Branches low, outer (with inner inside) and high. The inner one has a number before or after the
// outer one.
struct Model {
  DropBPLayer<Product> low{Product{0.5}, 1.0}, outer{Product{3.0}, 2.0}, inner{Product{5.0}, 4.0},
      high{Product{0.25}, 8.0};
  bool inner_first;

  explicit Model(bool numbers_inner_first) : inner_first(numbers_inner_first) {
    outer.op().inner = &inner;
  }
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  std::vector<DropBPLayer<Product>*> layers() {
    if (inner_first) return {&low, &inner, &outer, &high};
    return {&low, &outer, &inner, &high};
  }
  Parents parents() const { return inner_first ? Parents{0, 2, 2, 3} : Parents{0, 1, 1, 3}; }
  std::size_t number_of_outer() const { return inner_first ? 2 : 1; }
  std::size_t number_of_inner() const { return inner_first ? 1 : 2; }

  template <class Visit>
  void for_each_layer(Visit&& visit) {
    for (auto* layer : layers()) visit(*layer);
  }
  template <class Visit>
  void for_each_gradient(Visit&& visit) {
    for (auto* layer : layers()) layer->op().for_each_gradient(visit);
  }
  // Returns the gradient of x = 1.
  double backprop() {
    for (auto* layer : layers()) layer->op().gradient.clear();
    high.forward(outer.forward(low.forward(Values{1.0})));
    return low.backward(outer.backward(high.backward(Values{1.0})))[0];
  }
  Values gradients() {
    Values all;
    for (auto* layer : layers())
      all.push_back(layer->op().gradient.empty() ? 0.0 : layer->op().gradient[0]);
    return all;
  }
};

}  // namespace

TEST_CASE(
    "A plan drops every branch nested in a dropped one, for all nestings of up to 4 branches") {
  for (std::size_t size = 1; size <= 4; ++size)
    for_each_nesting(size, [&](const Parents& parents) {
      bool good = true;
      for (unsigned bits = 0; bits < (1u << size); ++bits)
        for (unsigned training = 0; training < (1u << size); ++training)
          for (const bool trainable_below : {true, false}) {
            const Mask drawn = mask_of(bits, size), trains = mask_of(training, size);
            const auto outermost = [&](std::size_t i) {
              while (parents[i] != i) i = parents[i];
              return i;
            };
            // By definition a branch is kept if it and all its ancestors are kept, and if it is
            // used.
            std::vector<bool> kept(size), uses(size);
            for (std::size_t i = 0; i < size; ++i) {
              bool all = drawn[i] == 0;
              for (std::size_t a = i; parents[a] != a; a = parents[a])
                all = all && drawn[parents[a]] == 0;
              kept[i] = all;
              if (all && trains[i] != 0) uses[outermost(i)] = true;
            }
            if (!trainable_below)
              for (std::size_t i = 0; i < size; ++i) {
                bool used = false;
                for (std::size_t below = 0; below <= outermost(i); ++below)
                  used = used || uses[below];
                kept[i] = kept[i] && used;
              }
            const DropPlan plan(
                drawn,
                {.trainable_below = trainable_below, .trainable = trains, .parents = parents});
            std::size_t lowest = size, count = 0;
            for (std::size_t i = 0; i < size; ++i) {
              good = good && plan.kept(i) == kept[i];
              if (!kept[i]) continue;
              good = good && plan.slot(i) == count++;
              const bool nested = parents[i] != i;
              if (!nested && lowest == size) lowest = i;
              good = good &&
                     plan.input_gradient_needed(i) == (trainable_below || nested || i != lowest);
            }
            good = good && plan.lowest_kept() == lowest && plan.kept_count() == count;
            if (trainable_below) good = good && plan == DropPlan(drawn, true, 0, 0, 0, {}, parents);
          }
      CAPTURE(size, parents);
      REQUIRE(good);
    });
}

TEST_CASE("Invalid parents are refused and leave plan and options unchanged") {
  const auto plan = [](const Parents& parents) {
    return DropPlan(Mask{0, 0, 0}, true, 0, 0, 0, {}, parents);
  };
  const auto schedule = [](const Parents& parents) {
    return DropSchedule<>({1, 1, 1}, {.parents = parents});
  };
  const auto refused = [&](const Parents& parents, const char* required, const char* given) {
    check_throws<std::invalid_argument>([&] { plan(parents); }, {required, given});
    check_throws<std::invalid_argument>([&] { schedule(parents); }, {required, given});
  };
  refused({0, 0}, "one entry of DropOptions::parents per branch is required (3 branches)",
          "2 were given");
  refused({0, 3, 2}, "numbered below 3", "that of branch 1 is 3");
  refused({1, 0, 2}, "must not be nested in itself", "of branch 0 go round in a circle");
  refused({0, 2, 1}, "must not be nested in itself", "of branch 1 go round in a circle");
  refused({1, 2, 0}, "must not be nested in itself", "of branch 0 go round in a circle");
  CHECK_NOTHROW(plan({1, 2, 2}));
  CHECK_NOTHROW(schedule({1, 2, 2}));
}

TEST_CASE("Nesting does not change the draws, and without nested branches it changes nothing") {
  const std::vector<double> costs{1, 2, 3, 4, 5};
  const Parents parents{0, 0, 1, 3, 3};
  const DropSchedule<> plain(costs, {.drop_rate = 0.4, .seed = 6, .warmup_steps = 20}),
      alone(costs, {.drop_rate = 0.4, .seed = 6, .warmup_steps = 20, .parents = {0, 1, 2, 3, 4}}),
      nested(costs, {.drop_rate = 0.4, .seed = 6, .warmup_steps = 20, .parents = parents});
  bool differs = false;
  for (std::uint64_t step = 0; step < 200; ++step) {
    const DropPlan drawn = plain.plan(step);
    REQUIRE(alone.plan(step) == drawn);
    REQUIRE(alone.plan(step).fingerprint() == drawn.fingerprint());
    const DropPlan plan = nested.plan(step);
    for (std::size_t i = 0; i < 5; ++i) {
      bool dropped = drawn.dropped(i) || drawn.dropped(parents[i]);
      if (i == 2) dropped = dropped || drawn.dropped(0);
      REQUIRE(plan.dropped(i) == dropped);
    }
    differs = differs || !(plan == drawn);
    REQUIRE(plan.kept_count() <= nested.max_kept());
  }
  CHECK(differs);
}

TEST_CASE("The learning rate scale of a nested branch includes the drop rates of its ancestors") {
  DropSchedule<> schedule({1, 1, 1, 1}, {.parents = {0, 0, 1, 3}});
  schedule.set_drop_rates(Values{0.5, 0.75, 0.5, 0.5});
  CHECK(schedule.learning_rate_scale(0) == 2.0);
  CHECK(schedule.learning_rate_scale(1) == 8.0);
  CHECK(schedule.learning_rate_scale(2) == 16.0);
  CHECK(schedule.learning_rate_scale(3) == 2.0);
  schedule.set_drop_rates(Values{1.0, 0.75, 0.5, 0.5});
  CHECK(schedule.learning_rate_scale(2) == 1.0);  // it never gets a step
}

TEST_CASE("has_gradient and all counts are right for nested branches") {
  Model model(GENERATE(false, true));
  const bool trainable_below = GENERATE(false, true);
  DropBPHandler handler(model, {.drop_rate = 0.5,
                                .seed = 3,
                                .trainable_below = trainable_below,
                                .parents = model.parents()});
  const std::size_t outer = model.number_of_outer(), inner = model.number_of_inner();
  std::size_t implied = 0, inner_alone = 0;
  for (std::uint64_t step = 0; step < 60; ++step) {
    handler.begin_step(step);
    model.backprop();
    const auto layers = model.layers();
    for (std::size_t i = 0; i < 4; ++i) {
      CAPTURE(step, i);
      REQUIRE(handler.has_gradient(i) == !layers[i]->op().gradient.empty());
      REQUIRE(layers[i]->dropped() == handler.plan().dropped(i));
      REQUIRE_FALSE(layers[i]->holds_saved());
    }
    // The outer branch's own weight is below the inner branch, even if nothing below both trains.
    if (handler.plan().kept(outer)) REQUIRE(model.outer.op().gradient[0] != 0.0);
    implied += handler.plan().dropped(outer);
    inner_alone += handler.plan().kept(outer) && handler.plan().dropped(inner);
  }
  REQUIRE(implied > 10);
  REQUIRE(inner_alone > 5);
  const dropbp::Report report = handler.report();
  CHECK(report.consistent());
  CHECK(report.branches[inner].dropped == implied + inner_alone);
  CHECK(report.branches[outer].dropped == implied);
}

TEST_CASE("A kept branch inside a dropped one throws instead of silently getting no gradient") {
  Model model(false);
  DropBPHandler handler(model);  // without DropOptions::parents
  handler.begin_step(DropPlan(Mask{0, 1, 0, 0}));
  check_throws<std::logic_error>([&] { model.backprop(); },
                                 {"nested in a dropped one must be dropped with it",
                                  "its plan keeps it", "DropOptions::parents"});
  CHECK_FALSE(dropbp::detail::InsideDroppedBranch::inside());
  CHECK_THROWS_AS(handler.measure_sensitivities([&] { model.backprop(); }), std::logic_error);
  for (const Mask& mask : {Mask{0, 0, 0, 0}, Mask{0, 0, 1, 0}, Mask{0, 1, 1, 0}}) {
    handler.begin_step(DropPlan(mask));
    CHECK_NOTHROW(model.backprop());
  }
  handler.begin_evaluation();
  CHECK_NOTHROW(model.high.forward(model.outer.forward(Values{1.0})));

  // A nested layer without a handler is dropped with the outer one.
  Model by_hand(false);
  by_hand.outer.decide({.dropped = true});
  CHECK_NOTHROW(by_hand.outer.forward(Values{1.0}));
  CHECK_FALSE(by_hand.inner.holds_saved());
  by_hand.outer.decide({});
  by_hand.backprop();
  CHECK(by_hand.inner.op().gradient.size() == 1);
}

TEST_CASE("A user's plan must be constructed with the parents") {
  const bool inner_first = GENERATE(false, true);
  Model model(inner_first);
  DropBPHandler handler(model, {.parents = model.parents()});
  handler.begin_step(0);
  const DropPlan before = handler.plan();
  Mask mask(4);
  mask[model.number_of_outer()] = 1;
  check_throws<std::invalid_argument>([&] { handler.begin_step(DropPlan(mask)); },
                                      {"must be made with DropOptions::parents"});
  CHECK(handler.plan() == before);
  CHECK(handler.report().micro_steps == 1);
  handler.begin_step(DropPlan(mask, true, 0, 0, 0, {}, model.parents()));
  CHECK(handler.plan().kept_count() == 2);
  CHECK_NOTHROW(model.backprop());
  // Consistent, but with the inner branch as the lowest kept one.
  const DropPlan misled(Mask{1, 0, 0, 0});
  if (inner_first)
    CHECK_THROWS_AS(handler.begin_step(misled), std::invalid_argument);
  else
    CHECK_NOTHROW(handler.begin_step(misled));
}

TEST_CASE("The sensitivity of an outer branch includes the branches inside it") {
  Model model(GENERATE(false, true));
  DropBPHandler handler(model, {.parents = model.parents()});
  const std::vector<double> measured =
      handler.measure_sensitivities([&] { model.backprop(); }, dropbp::GradientSensitivity{});
  const auto gradients = [&](const Mask& mask) {
    handler.begin_step(DropPlan(mask, true, 0, 0, 0, {}, model.parents()));
    model.backprop();
    return model.gradients();
  };
  const Values whole = gradients(Mask(4));
  for (std::size_t i = 0; i < 4; ++i) {
    Mask mask(4);
    mask[i] = 1;
    const Values without = gradients(mask);
    double sum = 0.0;
    for (std::size_t t = 0; t < 4; ++t) sum += (whole[t] - without[t]) * (whole[t] - without[t]);
    CHECK(measured[i] == Approx(sum).epsilon(1e-12));
  }
  CHECK(measured[model.number_of_outer()] > measured[model.number_of_inner()]);
}

TEST_CASE("Measurements that go branch by branch refuse nested branches") {
  struct Pass {
    Values forward() { return {1.0}; }
    Values backward(std::size_t, const Values& grad) { return grad; }
    void backward_below(const Values&) {}
    void clear_gradients(std::size_t) {}
  };
  Model model(false);
  DropBPHandler handler(model, {.drop_rate = 0.0, .parents = model.parents()});
  check_throws<std::logic_error>([&] { handler.measure_sensitivities_branchwise(Pass{}); },
                                 {"branch 2 is nested in branch 1", "measure_sensitivities"});
  dropbp::RunningSensitivity running(4);
  handler.begin_step(0);
  model.backprop();
  check_throws<std::logic_error>([&] { handler.observe_gradients(running); },
                                 {"branch 2 is nested in branch 1", "allocate_by_sensitivity"});
}

TEST_CASE("The measured cost of an outer branch excludes the branches inside it") {
  Model model(GENERATE(false, true));
  double time = 0.0;
  for (auto* layer : model.layers()) layer->op().ticks = &time;
  DropBPHandler handler(model, {.parents = model.parents()});
  const auto times = handler.measure_costs([&] { model.backprop(); }, [&] { return time; });
  for (const dropbp::BranchTimes& one : times) {
    CHECK(one.forward == 1.0);
    CHECK(one.backward == 10.0);
  }
}

TEST_CASE("With inverse_keep_rate the expected gradient of nested branches is the full gradient") {
  Model model(GENERATE(false, true));
  DropBPHandler handler(model, {.gradient_scaling = dropbp::GradientScaling::inverse_keep_rate,
                                .parents = model.parents()});
  const Values rates{0.5, 0.75, 0.25, 0.5};
  handler.set_drop_rates(rates);
  Values mean(4);
  double mean_input = 0.0;
  for (unsigned bits = 0; bits < 16; ++bits) {
    const Mask mask = mask_of(bits, 4);
    double probability = 1.0;
    for (std::size_t i = 0; i < 4; ++i) probability *= mask[i] != 0 ? rates[i] : 1.0 - rates[i];
    handler.begin_step(DropPlan(mask, true, 0, 0, 0, {}, model.parents()));
    mean_input += probability * model.backprop();
    const Values gradients = model.gradients();
    for (std::size_t i = 0; i < 4; ++i) mean[i] += probability * gradients[i];
  }
  Model full(model.inner_first);
  CHECK(mean_input == Approx(full.backprop()).epsilon(1e-12));
  for (std::size_t i = 0; i < 4; ++i) CHECK(mean[i] == Approx(full.gradients()[i]).epsilon(1e-12));
}

TEST_CASE(
    "An outer branch with nothing trainable of its own is kept for a trainable branch inside it") {
  Model model(GENERATE(false, true));
  model.low.op().is_trained = model.outer.op().is_trained = false;
  DropBPHandler handler(model,
                        {.drop_rate = 0.0, .trainable_below = false, .parents = model.parents()});
  handler.begin_step(0);
  model.backprop();
  CHECK(handler.plan().dropped(0));
  CHECK(handler.plan().lowest_kept() == model.number_of_outer());
  CHECK(handler.has_gradient(model.number_of_inner()));
  CHECK_FALSE(handler.has_gradient(model.number_of_outer()));
  CHECK(model.inner.op().gradient.size() == 1);
  model.inner.op().is_trained = false;
  handler.begin_step(1);
  CHECK(handler.plan().kept_count() == 1);
}
