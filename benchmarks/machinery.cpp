// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What does the library itself cost with 64 to a million branches? Draws plans, informs the layers,
// makes reports, states and allocations. Reports nanoseconds per branch, and memory allocations per
// step.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <string>
#include <vector>

#include <dropbp/dropbp.hpp>

#include "benchmark.hpp"

namespace {
std::size_t allocations = 0;
}

// Counts all allocations of this program. Not inlined: where g++ sees new and delete it warns about
// malloc and free.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  ++allocations;
  if (void* const memory = std::malloc(bytes > 0 ? bytes : 1)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

struct Nothing {
  struct Saved {};
  std::vector<float> forward(const std::vector<float>& x, Saved*) { return x; }
  std::vector<float> backward(const std::vector<float>& grad_output, Saved&) { return grad_output; }
};

struct Branches {
  std::vector<dropbp::DropBPLayer<Nothing>> layers;
  void for_each_layer(auto&& visit) {
    for (auto& layer : layers) visit(layer);
  }
};

// Seconds of the fastest of several rounds, because disturbances only add time.
template <class Call>
double fastest(int rounds, const Call& call) {
  double best = 1e300;
  for (int round = 0; round < rounds; ++round) best = std::min(best, bench::seconds_of(call));
  return best;
}

int run(int argc, char** argv) {
  CLI::App app("Times plans, handlers, reports and allocations for 64 to a million branches.");
  bench::Options common(app, "up to 65536 branches", false);
  int rounds = 9;
  app.add_option("--rounds", rounds, "timings of each; the fastest is reported")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  common.begin();
  std::vector<std::size_t> sizes = {64, 1024, 65536, 1000000};
  if (common.quick) sizes.pop_back();

  fmt::print(
      "nanoseconds a branch, fastest of {} rounds\n"
      "branches  plan (independent)  plan (fixed budget)  begin_step  report  state  greedy  "
      "optimal   allocations a "
      "step\n",
      rounds);
  bench::Json rows = bench::Json::array();
  llama::Plot plot{.title = "Cost of the machinery",
                   .x_label = "log2 of the number of branches",
                   .y_label = "ns a branch",
                   .series = {{"begin_step", {}}, {"plan, fixed budget", {}}}};
  for (const std::size_t size : sizes) {
    Branches model;
    for (std::size_t i = 0; i < size; ++i)
      model.layers.emplace_back(Nothing{}, 1.0 + static_cast<double>(i % 3));
    dropbp::DropBPHandler handler{model, {.drop_rate = 0.5, .seed = 1}};
    const dropbp::DropSchedule independent{std::vector<double>(size, 1.0), {.drop_rate = 0.5}};
    const dropbp::DropSchedule fixed{
        std::vector<double>(size, 1.0), {.drop_rate = 0.5}, dropbp::FixedBudgetSampling{}};
    std::vector<double> sensitivities;
    for (std::size_t i = 0; i < size; ++i)
      sensitivities.push_back(1.0 + static_cast<double>((i * 7919) % 1000));

    const std::uint64_t steps =
        std::max<std::uint64_t>(1, 65536 / size);  // enough work for the clock
    std::uint64_t step = 0;
    const auto for_steps = [&](const auto& call) {
      return 1e9 *
             fastest(rounds,
                     [&] {
                       for (std::uint64_t i = 0; i < steps; ++i) call(step++);
                     }) /
             static_cast<double>(steps * size);
    };
    dropbp::DropPlan plan;
    const double independent_ns = for_steps([&](std::uint64_t s) { independent.draw(s, 0, plan); });
    const double fixed_ns = for_steps([&](std::uint64_t s) { fixed.draw(s, 0, plan); });
    handler.begin_step(step++);
    handler.begin_step(step++);
    const std::size_t before = allocations;
    const double begin_ns = for_steps([&](std::uint64_t s) { handler.begin_step(s); });
    const double of_a_step = static_cast<double>(allocations - before) /
                             static_cast<double>(steps * static_cast<std::uint64_t>(rounds));
    std::size_t branches = 0;
    const double report_ns =
        for_steps([&](std::uint64_t) { branches += handler.report().branches.size(); });
    const double state_ns =
        for_steps([&](std::uint64_t) { branches += handler.state().drop_rates.size(); });
    if (branches == 0) return 1;  // uses the results, so that the calls are not optimised away
    const int few = size > 100000 ? 3 : rounds;
    dropbp::DropSchedule schedule = independent;
    const double greedy_ns =
        1e9 * fastest(few, [&] { schedule.allocate(sensitivities, dropbp::GreedyAllocation{}); }) /
        static_cast<double>(size);
    const double optimal_ns =
        1e9 *
        fastest(few, [&] { schedule.allocate(sensitivities, dropbp::OptimalAllocation<>{}); }) /
        static_cast<double>(size);
    fmt::print(
        "{:>8} {:>19.1f} {:>20.1f} {:>11.1f} {:>7.1f} {:>6.1f} {:>7.1f} {:>8.1f} {:>20.1f}\n", size,
        independent_ns, fixed_ns, begin_ns, report_ns, state_ns, greedy_ns, optimal_ns, of_a_step);
    std::fflush(stdout);
    rows.push_back({{"branches", size},
                    {"independent_ns", independent_ns},
                    {"fixed_budget_ns", fixed_ns},
                    {"begin_step_ns", begin_ns},
                    {"report_ns", report_ns},
                    {"state_ns", state_ns},
                    {"greedy_ns", greedy_ns},
                    {"optimal_ns", optimal_ns},
                    {"allocations_a_step", of_a_step}});
    plot.series[0].points.emplace_back(std::log2(static_cast<double>(size)), begin_ns);
    plot.series[1].points.emplace_back(std::log2(static_cast<double>(size)), fixed_ns);
  }
  common.write(bench::Json{{"rows", rows}});
  common.write(plot);
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return bench::main_of("machinery", argc, argv, run); }
