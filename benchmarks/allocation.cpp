// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// How much better are optimal rates than the published rates by the published objective? What do
// they cost for many branches?
#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include <dropbp/dropbp.hpp>

#include "benchmark.hpp"

namespace {

struct Instance {
  std::vector<double> sensitivities, costs;
  double drop_rate = 0.5;

  dropbp::AllocationInput input() const {
    double total = 0.0;
    for (const double f : costs) total += f;
    return {.sensitivities = sensitivities,
            .costs = costs,
            .drop_rate = drop_rate,
            .kept_cost = (1.0 - drop_rate) * total};
  }
  double objective(const std::vector<double>& rates) const {
    double sum = 0.0;
    for (std::size_t i = 0; i < rates.size(); ++i) sum += sensitivities[i] * rates[i] * rates[i];
    return sum;
  }
};

Instance random_instance(std::mt19937_64& random, std::size_t size) {
  std::lognormal_distribution<double> sensitivity(
      0.0, 1.0 + 2.0 * std::uniform_real_distribution<double>()(random));
  std::lognormal_distribution<double> costs(
      0.0, std::uniform_real_distribution<double>(0.0, 1.0)(random));
  Instance instance;
  for (std::size_t i = 0; i < size; ++i) {
    instance.sensitivities.push_back(sensitivity(random));
    instance.costs.push_back(costs(random));
  }
  instance.drop_rate = std::uniform_real_distribution<double>(0.05, 0.88)(random);
  return instance;
}

int run(int argc, char** argv) {
  CLI::App app(
      "Compares the rates of the allocation policies by sum of sensitivity * rate^2 on random "
      "instances.");
  int instances = 100000;
  std::size_t branches = 1000000;
  bench::Options common(app, "1000 instances", false);
  app.add_option("--instances", instances, "random instances of 2 to 200 branches")
      ->check(CLI::Range(1, 100000000))
      ->capture_default_str();
  app.add_option("--branches", branches, "branches of the timed instance")
      ->check(CLI::Range(1, 100000000))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  if (common.quick) instances = 1000;
  common.begin();

  std::mt19937_64 random(1);
  std::vector<double> of_greedy, of_uniform;
  int worse = 0;
  for (int number = 0; number < instances; ++number) {
    const Instance instance = random_instance(random, 2 + random() % 199);
    const dropbp::AllocationInput input = instance.input();
    const double uniform = instance.objective(dropbp::UniformAllocation{}.allocate(input));
    const std::vector<double> greedy_rates = dropbp::GreedyAllocation{}.allocate(input);
    const double greedy = instance.objective(greedy_rates);
    const double optimal = instance.objective(dropbp::OptimalAllocation<>{}.allocate(input));
    // The published loop stops up to one step of 0.1 above the budget, or one ulp below it because
    // its rates are float32. So compare with the optimum of the budget that it reached.
    double kept = 0.0;
    for (std::size_t i = 0; i < greedy_rates.size(); ++i)
      kept += instance.costs[i] * (1.0 - greedy_rates[i]);
    dropbp::AllocationInput same = input;
    same.kept_cost = std::max(kept, input.kept_cost);
    const double fair = kept > input.kept_cost
                            ? instance.objective(dropbp::OptimalAllocation<>{}.allocate(same))
                            : optimal;
    worse += optimal > uniform * (1.0 + 1e-12) || fair > greedy * (1.0 + 1e-12);
    of_greedy.push_back(greedy / optimal);
    of_uniform.push_back(uniform / optimal);
  }
  llama::Plot plot{.title = "Objective of other policies",
                   .x_label = "share of the instances",
                   .y_label = "/ the optimal one",
                   .series = {}};
  const auto row = [&](const char* name, std::vector<double>& ratios) {
    std::sort(ratios.begin(), ratios.end());
    const auto at = [&](double share) {
      return ratios[static_cast<std::size_t>(share * static_cast<double>(ratios.size() - 1))];
    };
    fmt::print("{:<10} {:>8.3f} {:>8.3f} {:>8.3f} {:>8.3f}\n", name, at(0.0), at(0.5), at(0.99),
               at(1.0));
    plot.series.push_back({name, {}});
    for (int percent = 0; percent < 100; ++percent)
      plot.series.back().points.emplace_back(0.01 * percent, at(0.01 * percent));
    return bench::Json{
        {"least", at(0.0)}, {"median", at(0.5)}, {"p99", at(0.99)}, {"most", at(1.0)}};
  };
  fmt::print(
      "objective / the optimal one's, {} instances\n              least   median      99%     "
      "most\n",
      instances);
  bench::Json json;
  const bench::Json greedy = row("greedy", of_greedy), uniform = row("uniform", of_uniform);
  fmt::print("instances with an objective above another policy's: {}\n", worse);

  const Instance many = random_instance(random, branches);
  std::vector<double> rates;
  const double seconds =
      bench::seconds_of([&] { rates = dropbp::OptimalAllocation<>{}.allocate(many.input()); });
  fmt::print("{} branches: {:.3f} s\n", rates.size(), seconds);
  json["greedy_over_optimal_median"] = greedy["median"];
  json["seconds_for_1e6_branches"] = seconds * 1e6 / static_cast<double>(branches);
  json["instances"] = instances;
  json["greedy"] = greedy;
  json["uniform"] = uniform;
  json["above_another"] = worse;
  common.write(json);
  common.write(plot);
  return worse == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) { return bench::main_of("allocation", argc, argv, run); }
