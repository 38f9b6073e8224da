// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Steady steps allocate nothing: counted by replacing the global operator new of this program.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

#include "dropbp/dropbp.hpp"
#include "support/catch.hpp"

namespace {
std::atomic<std::uint64_t> allocations{0};

[[gnu::noinline]] void* counted_or_null(std::size_t size) noexcept {
  allocations.fetch_add(1, std::memory_order_relaxed);
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
// AddressSanitizer replaces these too, and what comes from its own must not go to our delete.
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

// A tensor of one number: whatever allocates in these tests is the library.
struct Number {
  float value = 0;
  struct dropbp_tensor_traits {
    static void accumulate(Number& y, const Number& x) { y.value += x.value; }
  };
};

struct Half {
  struct Saved {
    Number x;
  };
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
  void run() {
    Number x{1e-30f};
    for (auto& layer : layers) x = layer.forward(x);
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

}  // namespace

TEST_CASE("A hundred thousand steady steps of 64 branches allocate nothing") {
  CHECK(allocations_of_steady_steps<dropbp::BernoulliSampling>(100'000) == 0);
}

TEST_CASE("Nor do they with the at-least-target sampler") {
  CHECK(allocations_of_steady_steps<dropbp::AtLeastTargetSampling>(20'000) == 0);
}

TEST_CASE("Nor with a fixed budget") {
  CHECK(allocations_of_steady_steps<dropbp::FixedBudgetSampling>(20'000) == 0);
}

TEST_CASE("The count of allocations counts") {
  const std::uint64_t before = allocations;
  std::vector<int>* const one = new std::vector<int>(100);
  delete one;
  CHECK(allocations - before == 2);
  const dropbp::DropSchedule<> schedule(std::vector<double>(8, 1.0));
  const std::uint64_t middle = allocations;
  CHECK(schedule.plan(0).size() == 8);
  CHECK(allocations - middle > 0);  // plan(step) makes a new plan; draw is the one that does not
}
