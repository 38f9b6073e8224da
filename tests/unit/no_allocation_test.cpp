// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Steps allocate no memory after the first ones, and a failed allocation changes nothing. This
// program replaces the global operator new to count allocations and to make them fail.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <span>
#include <utility>
#include <vector>

#include "dropbp/dropbp.hpp"
#include "dropbp/steady_clock.hpp"
#include "support/catch.hpp"
#include "support/promise.hpp"

namespace {
std::atomic<std::uint64_t> allocations{0};
// The allocations with these numbers fail, both ends included.
std::atomic<std::uint64_t> first_to_fail{~std::uint64_t{0}}, last_to_fail{0};

[[gnu::noinline]] void* counted_or_null(std::size_t size) noexcept {
  const std::uint64_t number = allocations.fetch_add(1, std::memory_order_relaxed);
  if (number >= first_to_fail && number <= last_to_fail) return nullptr;
  return std::malloc(size == 0 ? 1 : size);
}
[[gnu::noinline]] void* counted(std::size_t size) {
  if (void* const memory = counted_or_null(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void released(void* memory) noexcept { std::free(memory); }
}  // namespace

void* operator new(std::size_t size) { return counted(size); }
void* operator new[](std::size_t size) { return counted(size); }
// AddressSanitizer replaces this function too, and memory from its version must not go to our
// delete.
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return counted_or_null(size);
}
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  return counted_or_null(size);
}
void operator delete(void* memory) noexcept { released(memory); }
void operator delete[](void* memory) noexcept { released(memory); }
void operator delete(void* memory, std::size_t) noexcept { released(memory); }
void operator delete[](void* memory, std::size_t) noexcept { released(memory); }

namespace {

// A tensor of one number, so that every allocation in these tests is the library's.
struct Number {
  float value = 0;
  struct dropbp_tensor_traits {
    static void accumulate(Number& y, const Number& x) { y.value += x.value; }
    static double squared_norm(const Number& x) {
      return static_cast<double>(x.value) * static_cast<double>(x.value);
    }
    static double squared_distance(const Number& x, const Number& y) {
      return squared_norm(Number{x.value - y.value});
    }
    static Number clone(const Number& x) { return x; }
  };
};

struct Half {
  struct Saved {
    Number x;
  };
  static constexpr bool backward_is_repeatable = true;
  float gradient = 0;
  Number forward(const Number& x, Saved* saved) {
    if (saved != nullptr) saved->x = x;
    return {x.value / 2};
  }
  Number backward(const Number& grad, Saved& saved) {
    gradient += grad.value * saved.x.value;
    return {grad.value / 2};
  }
};

struct Model {
  std::vector<dropbp::DropBPLayer<Half>> layers;
  explicit Model(std::size_t size) {
    for (std::size_t i = 0; i < size; ++i) layers.emplace_back(Half{});
  }
  void for_each_layer(auto&& visit) {
    for (auto& layer : layers) visit(layer);
  }
  void for_each_gradient(auto&& visit) {
    for (auto& layer : layers) visit(Number{layer.op().gradient});
  }
  Number forward() {
    Number x{1e-30f};
    for (auto& layer : layers) x = layer.forward(x);
    return x;
  }
  void run() {
    forward();
    Number g{1e-30f};
    for (std::size_t i = layers.size(); i-- > 0;) g = layers[i].backward(g);
  }
};

template <class Sampling>
std::uint64_t allocations_of_steady_steps(std::uint64_t steps) {
  Model model(64);
  dropbp::DropBPHandler handler{model, {.drop_rate = 0.5}, dropbp::GreedyAllocation{}, Sampling{}};
  const dropbp::DropPlan given(std::vector<std::uint8_t>(64, 1));
  handler.begin_step(0);
  const std::uint64_t before = allocations;
  for (std::uint64_t step = 1; step < steps; ++step) {
    handler.begin_step(step);
    model.run();
    if (step % 4 == 0) handler.begin_micro_step(1), model.run();
    if (step % 16 == 0) handler.begin_evaluation();
    if (step % 32 == 0) handler.begin_step(given), model.run();
    static_cast<void>(handler.all_dropped() || handler.has_gradient(3) ||
                      handler.plan().fingerprint() == 0);
  }
  return allocations - before;
}

template <class Sampling>
void check_steady_steps() {
  constexpr std::uint64_t steps = 100'000;
  const std::uint64_t found = allocations_of_steady_steps<Sampling>(steps);
  CHECK(found == 0);
  dropbp_test::promise(23, "policies=1 least_steps=%llu allocations=%llu",
                       static_cast<unsigned long long>(steps),
                       static_cast<unsigned long long>(found));
}

}  // namespace

TEST_CASE("A hundred thousand steps of 64 branches allocate nothing") {
  check_steady_steps<dropbp::BernoulliSampling>();
}

TEST_CASE("With AtLeastTargetSampling steps allocate nothing") {
  check_steady_steps<dropbp::AtLeastTargetSampling>();
}

TEST_CASE("With FixedBudgetSampling and PerStageBudgetSampling steps allocate nothing") {
  check_steady_steps<dropbp::FixedBudgetSampling>();
  check_steady_steps<dropbp::PerStageBudgetSampling>();
}

TEST_CASE("An allocation is counted") {
  const std::uint64_t before = allocations;
  std::vector<int>* const one = new std::vector<int>(100);
  delete one;
  CHECK(allocations - before == 2);
  const dropbp::DropSchedule<> schedule(std::vector<double>(8, 1.0));
  const std::uint64_t middle = allocations;
  CHECK(schedule.plan(0).size() == 8);
  CHECK(allocations - middle > 0);  // plan(step) makes a new plan; draw does not
}

namespace {

// While it exists, all allocations after the first `after` fail, or only the next one.
class MemoryEnds {
 public:
  MemoryEnds(std::uint64_t after, bool for_ever) {
    last_to_fail = for_ever ? ~std::uint64_t{0} : allocations + after;
    first_to_fail = allocations + after;
  }
  ~MemoryEnds() { first_to_fail = ~std::uint64_t{0}; }
  MemoryEnds(const MemoryEnds&) = delete;
  MemoryEnds& operator=(const MemoryEnds&) = delete;
};

struct Pass {
  Model& model;
  Number forward() {
    for (auto& layer : model.layers) layer.op().gradient = 0;
    return model.forward();
  }
  Number backward(std::size_t branch, const Number& grad) {
    return model.layers[branch].backward(grad);
  }
  void backward_below(const Number&) {}
  void clear_gradients(std::size_t branches) {
    for (std::size_t i = 0; i < branches; ++i) model.layers[i].op().gradient = 0;
  }
};

using Handler = dropbp::DropBPHandler<Model>;
enum class Where { before_the_first_step, in_a_step, in_an_evaluation };

// Makes each allocation of a call fail in turn. Returns the number of allocations.
template <class Call>
std::uint64_t fail_each_allocation(Where where, bool for_ever, Call call) {
  for (std::uint64_t after = 0;; ++after) {
    Model model(5);
    Handler handler{model, {.drop_rate = 0.4, .seed = 3}};
    if (where != Where::before_the_first_step) handler.begin_step(7), model.run();
    if (where == Where::in_an_evaluation) handler.begin_evaluation();
    const dropbp::HandlerState before = handler.state();
    const dropbp::DropPlan plan = handler.plan();
    const std::vector<double> costs(handler.costs().begin(), handler.costs().end());
    bool failed = false;
    {
      const MemoryEnds memory_ends(after, for_ever);
      try {
        call(handler, model);
      } catch (const std::bad_alloc&) {
        failed = true;
      }
    }
    if (!failed) return after;
    CAPTURE(after);
    REQUIRE(handler.state() == before);
    REQUIRE(handler.plan() == plan);
    REQUIRE(std::vector<double>(handler.costs().begin(), handler.costs().end()) == costs);
    if (where == Where::before_the_first_step)
      REQUIRE_THROWS_AS(handler.has_gradient(0), std::logic_error);
    else if (where == Where::in_a_step)
      for (std::size_t i = 0; i < plan.size(); ++i)
        REQUIRE(model.layers[i].dropped() == plan.dropped(i));
    // The layers got their decisions back: their next pass belongs to the step or the evaluation.
    model.forward();
    for (std::size_t i = 0; i < model.layers.size(); ++i)
      REQUIRE(model.layers[i].holds_saved() == (where == Where::before_the_first_step ||
                                                (where == Where::in_a_step && plan.kept(i))));
    handler.begin_step(8);
    REQUIRE(handler.plan() == handler.schedule().plan(8));
    model.run();
  }
}

}  // namespace

TEST_CASE("If any allocation fails, a call of the handler throws and changes nothing") {
  const dropbp::DropPlan plan(std::vector<std::uint8_t>(5, 1));
  const dropbp::HandlerState state = [] {
    Model model(5);
    Handler handler{model, {.drop_rate = 0.9, .seed = 8}};
    handler.begin_step(2);
    return handler.state();
  }();
  const std::vector<double> values{1, 2, 3, 4, 0.5};
  const std::vector<double> rates{0.5, 0.25, 0.5, 1, 0};
  std::uint64_t failures = 0;
  for (const Where where :
       {Where::before_the_first_step, Where::in_a_step, Where::in_an_evaluation})
    for (const bool for_ever : {false, true}) {
      CAPTURE(static_cast<int>(where), for_ever);
      const auto fails = [&](auto call) {
        failures += fail_each_allocation(where, for_ever, call);
      };
      fails([](Handler& h, Model& m) { h.measure_sensitivities([&] { m.run(); }); });
      fails([](Handler& h, Model& m) {
        h.measure_sensitivities([&] { m.run(); }, dropbp::GradientSensitivity{});
      });
      fails([](Handler& h, Model& m) { h.measure_sensitivities_branchwise(Pass{m}); });
      fails([](Handler& h, Model& m) { h.measure_costs([&] { m.run(); }, dropbp::SteadyClock{}); });
      fails([](Handler& h, Model& m) { h.allocate_by_sensitivity([&] { m.run(); }); });
      fails([&](Handler& h, Model&) { h.allocate(values); });
      fails([](Handler& h, Model&) { h.set_drop_rate(0.75); });
      fails([&](Handler& h, Model&) { h.set_drop_rates(rates); });
      fails([&](Handler& h, Model&) { h.set_costs(values); });
      fails([](Handler& h, Model&) { h.update_costs(); });
      fails([&](Handler& h, Model&) { h.restore(state); });
      fails([](Handler& h, Model&) { h.begin_step(9); });
      fails([&](Handler& h, Model&) { h.begin_step(plan); });
      fails([](Handler& h, Model&) { h.begin_evaluation(); });
    }
  CHECK(failures > 200);  // about 50 in each of the six combinations
}
