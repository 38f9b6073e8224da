// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// How many bytes do the ranks of a data-parallel training communicate by drop rate, and how long do
// they take? Start it with mpirun. There is no computation: a step is the all-reduce of the
// gradients of its kept branches, and of what lies above and below them. The bytes must be exactly
// those of the plans.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <dropbp/dropbp.hpp>
#include <dropbp/interop/gradient_reducer.hpp>
#include <dropbp/interop/mpi.hpp>
#include <nlohmann/json.hpp>

namespace {

using Schedule = dropbp::DropSchedule<dropbp::FixedBudgetSampling>;

struct Settings {
  std::size_t branches = 32, elements = 1 << 17;
  std::uint64_t steps = 40, rounds = 5;
  double deadline = 300.0;
  bool quick = false;
  std::string json;
};

/// The gradients of a model: MLP branches are twice as large as attention branches. What lies above
/// and below is as large as one attention branch each.
class Gradients {
 public:
  Gradients(dropbp::MpiCommunicator& communicator, const Settings& settings)
      : communicator_(&communicator), reducer_(communicator, settings.branches) {
    for (std::size_t i = 0; i < settings.branches + 2; ++i) {
      const bool mlp = i < settings.branches && i % 2 == 1;
      values_.emplace_back(settings.elements * (mlp ? 2 : 1), 1.0f);
      if (i < settings.branches) costs_.push_back(static_cast<double>(values_.back().size()));
    }
    for (std::size_t i = 0; i < settings.branches; ++i) reducer_.add(i, values_[i]);
    reducer_.add(reducer_.above, values_[settings.branches]);
    reducer_.add(reducer_.below, values_[settings.branches + 1]);
  }

  const std::vector<double>& costs() const { return costs_; }
  std::uint64_t bytes() const { return reducer_.traffic().gradient_bytes; }

  /// Bytes of the branches that the plan keeps.
  std::uint64_t kept_bytes(const dropbp::DropPlan& plan) const {
    std::uint64_t bytes = 0;
    for (std::size_t i = 0; i < plan.size(); ++i)
      if (plan.kept(i)) bytes += values_[i].size() * sizeof(float);
    return bytes;
  }
  std::uint64_t other_bytes() const {
    return (values_.back().size() + values_[values_.size() - 2].size()) * sizeof(float);
  }

  void reduce(const dropbp::DropPlan& plan) {
    for (std::vector<float>& one : values_) one[0] = static_cast<float>(communicator_->rank());
    reducer_.begin(plan, 1.0);
    for (std::size_t i = plan.size(); i-- > 0;) reducer_.passed(i);
    reducer_.finish();
    const float mean = 0.5f * static_cast<float>(communicator_->size() - 1);
    for (std::size_t i = 0; i < plan.size(); ++i)
      if (values_[i][0] != (plan.kept(i) ? mean : static_cast<float>(communicator_->rank())))
        throw std::runtime_error("the gradient of branch " + std::to_string(i) + " is wrong");
  }

 private:
  dropbp::MpiCommunicator* communicator_;
  std::vector<std::vector<float>> values_;
  std::vector<double> costs_;
  dropbp::GradientReducer<dropbp::MpiCommunicator> reducer_;
};

struct Row {
  double rate = 0.0;
  std::uint64_t branch_bytes = 0, expected_bytes = 0;
  std::vector<double> milliseconds;  // a step, of each round
};

// All rates take turns in each round. The steps are numbered on, so that each has another plan.
std::vector<Row> measure(Gradients& gradients, const Settings& settings,
                         dropbp::MpiWatchdog& watchdog) {
  std::vector<Row> rows;
  for (const double rate : {0.0, 0.5, 0.75, 0.875}) rows.push_back({rate, 0, 0, {}});
  for (std::uint64_t round = 0; round < settings.rounds; ++round)
    for (Row& row : rows) {
      const Schedule schedule(gradients.costs(), {.drop_rate = row.rate, .seed = 7},
                              {.weigh = dropbp::BranchWeight::cost});
      const auto start = std::chrono::steady_clock::now();
      for (std::uint64_t step = 0; step < settings.steps; ++step) {
        const std::uint64_t number = round * settings.steps + step;
        watchdog.begin_step(number);
        const dropbp::DropPlan plan = schedule.plan(number);
        const std::uint64_t before = gradients.bytes();
        gradients.reduce(plan);
        row.branch_bytes += gradients.bytes() - before - gradients.other_bytes();
        row.expected_bytes += gradients.kept_bytes(plan);
      }
      const std::chrono::duration<double, std::milli> passed =
          std::chrono::steady_clock::now() - start;
      row.milliseconds.push_back(passed.count() / static_cast<double>(settings.steps));
    }
  watchdog.pause();
  for (Row& row : rows) std::sort(row.milliseconds.begin(), row.milliseconds.end());
  return rows;
}

double share_of(const Row& row, const std::vector<Row>& rows) {
  return static_cast<double>(row.branch_bytes) / static_cast<double>(rows[0].branch_bytes);
}

void print(const std::vector<Row>& rows, int ranks, const Settings& settings) {
  const double steps = static_cast<double>(settings.steps * settings.rounds);
  nlohmann::ordered_json json{{"ranks", ranks}, {"rows", nlohmann::json::array()}};
  std::puts("drop rate   MiB of branches a step   / at rate 0   kept share   ms a step (least)");
  for (const Row& row : rows) {
    const double share = share_of(row, rows), bytes = static_cast<double>(row.branch_bytes) / steps;
    const double median = row.milliseconds[row.milliseconds.size() / 2];
    std::printf("%9.3f   %22.3f   %11.4f   %10.4f   %9.2f (%.2f)\n", row.rate, bytes / 0x1p20,
                share, 1.0 - row.rate, median, row.milliseconds.front());
    json["rows"].push_back({{"drop_rate", row.rate},
                            {"branch_bytes_a_step", bytes},
                            {"share", share},
                            {"ms_a_step", median},
                            {"least_ms_a_step", row.milliseconds.front()}});
  }
  if (!settings.json.empty() && !(std::ofstream(settings.json) << json.dump(1) << '\n'))
    throw std::runtime_error("cannot write " + settings.json);
}

int run(const Settings& settings) {
  dropbp::MpiCommunicator communicator(MPI_COMM_WORLD);
  dropbp::MpiWatchdog watchdog{std::chrono::duration<double>(settings.deadline)};
  watchdog.begin_step(0);
  Gradients gradients(communicator, settings);
  if (communicator.rank() == 0) {
    std::printf("%d ranks, %zu branches\n", communicator.size(), settings.branches);
    std::fflush(stdout);
  }
  const std::vector<Row> rows = measure(gradients, settings, watchdog);
  if (communicator.rank() == 0) print(rows, communicator.size(), settings);
  for (const Row& row : rows) {
    if (row.branch_bytes != row.expected_bytes)
      throw std::runtime_error("the bytes must be those of the kept branches");
    if (row.rate == 0.5 && std::abs(share_of(row, rows) / 0.5 - 1.0) > 0.02)
      throw std::runtime_error("at a drop rate of 0.5 the bytes must be within 2 % of half of all");
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Measures the bytes and the time of gradients' all-reduces by drop rate: mpirun -n 4 "
      "communication");
  Settings settings;
  app.add_flag("--quick", settings.quick, "takes seconds: tests the bytes; times mean nothing");
  app.add_option("--branches", settings.branches, "half of them attention, half MLP")
      ->check(CLI::Range(2, 100000))
      ->capture_default_str();
  app.add_option("--elements", settings.elements, "floats of an attention branch; MLP: twice")
      ->check(CLI::Range(1, 1 << 28))
      ->capture_default_str();
  app.add_option("--steps", settings.steps, "of a rate and round")
      ->check(CLI::Range(1, 100000000))
      ->capture_default_str();
  app.add_option("--rounds", settings.rounds, "in each, all rates take turns")
      ->check(CLI::Range(1, 100000000))
      ->capture_default_str();
  app.add_option("--deadline", settings.deadline, "seconds after which a step ends the job")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--json", settings.json, "also write the figures to this file");
  CLI11_PARSE(app, argc, argv);
  if (settings.quick) {
    settings.elements = 100;
    settings.steps = 50;
    settings.rounds = 2;
  }
  return dropbp::run_with_mpi(argc, argv, [&] { return run(settings); });
}
