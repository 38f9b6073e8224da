// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A rank of the MPI tests.
//   mpi_ranks reduce                     gradients against a slow sum, in both orders of sums
//   mpi_ranks plans STEPS                all plans of 64 branches, whose rates come from ranks;
//                                        a million steps with DROPBP_PROMISES=full
//   mpi_ranks fault KIND RANK STEP DEADLINE   a training in which RANK has a fault in STEP
// A fault must end the job; without one ("none") it ends by itself.
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <dropbp/base/philox.hpp>
#include <dropbp/dropbp.hpp>
#include <dropbp/interop/gradient_reducer.hpp>
#include <dropbp/interop/mpi.hpp>

#include "support/promise.hpp"

namespace {

using dropbp::DropPlan;
using dropbp::MpiCommunicator;

void require(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error("failed: " + what);
}

// ---- reduce

template <class T>
T value_of(std::size_t element, int rank, std::uint64_t step) {
  const dropbp::CounterRandom random(3, dropbp::RandomStream::user, step,
                                     static_cast<std::uint32_t>(rank));
  return static_cast<T>(static_cast<double>(random(element) >> 11) * 0x1p-53 - 0.5);
}

// A sum by rank has the bits of the slow sum; one in any order is near it, and has the same bits on
// all ranks.
template <class T>
void reduce(dropbp::SumOrder order, std::size_t bucket_bytes) {
  MpiCommunicator communicator(MPI_COMM_WORLD, order);
  constexpr std::size_t branches = 5;
  constexpr std::size_t sizes[branches] = {1, 2, 1009, 65536, 300001};
  std::vector<std::vector<T>> gradients;
  for (const std::size_t size : sizes) gradients.emplace_back(size);
  dropbp::GradientReducer<MpiCommunicator, T> reducer(communicator, branches,
                                                      {.bucket_bytes = bucket_bytes});
  for (std::size_t i = 0; i < branches; ++i) reducer.add(i, gradients[i]);
  const dropbp::DropSchedule<> schedule{std::vector<double>(branches, 1.0), {.seed = 9}};
  for (std::uint64_t step = 0; step < 6; ++step) {
    const DropPlan plan = schedule.plan(step);
    for (std::size_t i = 0; i < branches; ++i)
      for (std::size_t at = 0; at < sizes[i]; ++at)
        gradients[i][at] = value_of<T>(at, communicator.rank(), step);
    reducer.begin(plan, 1.0);
    for (std::size_t i = branches; i-- > 0;) reducer.passed(i);
    reducer.finish();
    std::uint64_t bits = 0;
    for (std::size_t i = 0; i < branches; ++i)
      for (std::size_t at = 0; at < sizes[i]; at += 1 + sizes[i] / 500) {
        if (plan.dropped(i)) {
          require(gradients[i][at] == value_of<T>(at, communicator.rank(), step), "left alone");
          continue;
        }
        T sum = value_of<T>(at, 0, step);
        for (int rank = 1; rank < communicator.size(); ++rank) sum += value_of<T>(at, rank, step);
        const T mean = sum * static_cast<T>(1.0 / communicator.size());
        const T got = gradients[i][at];
        if (order == dropbp::SumOrder::by_rank)
          require(got == mean, "the bits of a sum by rank");
        else
          require(std::abs(got - mean) <= 8 * std::numeric_limits<T>::epsilon(), "the mean");
        bits = dropbp::detail::mix(bits, std::bit_cast<std::uint64_t>(static_cast<double>(got)));
      }
    dropbp::require_agreement(communicator, "the same bits", bits, step, "look");
  }
}

int run_reduce() {
  for (const auto order : {dropbp::SumOrder::any, dropbp::SumOrder::by_rank})
    for (const std::size_t bucket : {std::size_t{0}, std::size_t{1} << 16, std::size_t{1} << 24}) {
      reduce<float>(order, bucket);
      reduce<double>(order, bucket);
    }
  MpiCommunicator communicator(MPI_COMM_WORLD);
  std::vector<std::byte> bytes(1000, static_cast<std::byte>(communicator.rank()));
  auto request = communicator.broadcast(bytes, communicator.size() - 1);
  communicator.wait(request);
  for (const std::byte byte : bytes)
    require(byte == static_cast<std::byte>(communicator.size() - 1), "the root's bytes");
  return 0;
}

// ---- plans

// Each rank measures other sensitivities; their sum decides the rates of all.
int run_plans(std::uint64_t steps) {
  MpiCommunicator communicator(MPI_COMM_WORLD);
  constexpr std::size_t branches = 64;
  std::vector<double> sensitivities;
  for (std::size_t i = 0; i < branches; ++i)
    sensitivities.push_back(value_of<double>(i, communicator.rank(), 77) + 0.5);
  dropbp::sum_over_ranks(communicator, sensitivities);
  dropbp::DropSchedule<> bernoulli{std::vector<double>(branches, 1.0), {.seed = 1}};
  bernoulli.allocate(sensitivities, dropbp::GreedyAllocation{});
  dropbp::DropSchedule<dropbp::FixedBudgetSampling> fixed{std::vector<double>(branches, 1.0),
                                                          {.seed = 1}};
  fixed.allocate(sensitivities, dropbp::GreedyAllocation{});
  std::uint64_t plans = 0;
  DropPlan plan;
  for (std::uint64_t step = 0; step < steps; ++step) {
    bernoulli.draw(step, 0, plan);
    plans = dropbp::detail::mix(plans, plan.fingerprint());
    fixed.draw(step, 0, plan);
    plans = dropbp::detail::mix(plans, plan.fingerprint());
    if ((step + 1) % 10000 == 0 || step + 1 == steps)
      dropbp::require_agreement(communicator, "the same plans", plans, step, "look");
  }
  if (communicator.rank() != 0) return 0;
  std::printf("%llu steps x %zu branches on %d ranks: 0 disagreements, hash %016llX\n",
              static_cast<unsigned long long>(steps), branches, communicator.size(),
              static_cast<unsigned long long>(plans));
  dropbp_test::promise(9, "runs=1 least_steps=%llu most_ranks=%d disagreements=0",
                       static_cast<unsigned long long>(steps), communicator.size());
  return 0;
}

// ---- faults

// Leaves a collective out when told to.
class FaultyCommunicator : public MpiCommunicator {
 public:
  using MpiCommunicator::all_reduce;
  using MpiCommunicator::MpiCommunicator;
  Request all_reduce(std::span<float> values) {
    if (skips) return {};
    return MpiCommunicator::all_reduce(values);
  }
  bool skips = false;
};

void sleep_for_ever() {
  for (;;) std::this_thread::sleep_for(std::chrono::seconds(1));
}

// A fault that does not come through numbers.
void do_fault(std::string_view kind) {
  if (kind == "stop") raise(SIGSTOP);
  if (kind == "kill") raise(SIGKILL);
  if (kind == "crash") raise(SIGSEGV);
  if (kind == "exit") _exit(0);
  if (kind == "exit_code") _exit(3);
  if (kind == "exception") throw std::runtime_error("an exception of one rank");
  if (kind == "endless") sleep_for_ever();
  if (kind == "finalize") {
    MPI_Finalize();
    _exit(0);
  }
}

int run_fault(std::string_view kind, int faulty_rank, std::uint64_t faulty_step, double deadline) {
  FaultyCommunicator communicator(MPI_COMM_WORLD);
  dropbp::MpiWatchdog watchdog{std::chrono::duration<double>(deadline)};
  const bool faulty = communicator.rank() == faulty_rank;
  const auto has = [&](std::string_view fault) { return faulty && kind == fault; };

  constexpr std::size_t branches = 8;
  constexpr std::uint64_t steps = 12;
  std::vector<std::vector<float>> gradients;
  for (std::size_t i = 0; i < branches; ++i) gradients.emplace_back(1000 + 100 * (i / 2));
  if (has("layout_size")) gradients[3].resize(7);
  dropbp::GradientReducer<FaultyCommunicator> reducer(
      communicator, branches, {.bucket_bytes = 4096, .settings = has("settings") ? 1u : 0u});
  for (std::size_t i = 0; i < branches; ++i)
    reducer.add(has("layout_order") ? branches - 1 - i : i, gradients[i]);
  if (has("layout_tensor")) reducer.add(reducer.below, gradients[0]);

  dropbp::DropOptions options{.seed = has("seed") ? 6u : 5u,
                              .warmup_steps = has("warmup") ? 10u : 0u};
  dropbp::DropSchedule<> schedule{std::vector<double>(branches, 1.0), options};
  std::vector<double> sensitivities(branches, 1.0 + communicator.rank());
  for (std::size_t i = 0; i < branches; ++i) sensitivities[i] += static_cast<double>(i) * 0.1;
  if (kind != "sensitivities") dropbp::sum_over_ranks(communicator, sensitivities);
  if (faulty) sensitivities[0] *= kind == "sensitivities" ? 100.0 : 1.0;
  schedule.allocate(sensitivities, dropbp::GreedyAllocation{});

  for (std::uint64_t step = 0; step < steps; ++step) {
    const bool now = faulty && step == faulty_step;
    watchdog.begin_step(step);
    if (now) do_fault(kind);
    if (now && kind == "rates") schedule.set_drop_rate(0.500001);
    DropPlan plan = schedule.plan(step);
    if (now && kind == "step") plan = schedule.plan(step + 1);
    if (now && kind == "plan_bit") {
      std::vector<std::uint8_t> mask;
      for (std::size_t i = 0; i < branches; ++i) mask.push_back(plan.dropped(i) != (i == 5));
      plan = DropPlan(mask, {.step = step, .rates_hash = plan.rates_hash()});
    }
    double loss = 1.0;
    if (now && kind == "nan") loss = std::numeric_limits<double>::quiet_NaN();
    if (now && kind == "infinite") loss = std::numeric_limits<double>::infinity();
    if (now && kind == "skipped_step") continue;
    if (now && kind == "skipped_micro_step") reducer.observe(plan);
    reducer.begin(plan, loss);
    communicator.skips = now && kind == "skipped_collective";
    for (std::size_t i = branches; i-- > 0;) reducer.passed(i);
    if (now && kind == "stop_midway") raise(SIGSTOP);
    if (now && kind == "kill_midway") raise(SIGKILL);
    reducer.finish();
    communicator.skips = false;
  }
  watchdog.pause();
  std::printf("rank %d has ended\n", communicator.rank());
  return 0;
}

int run(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.size() >= 1 && words[0] == "reduce") return run_reduce();
  if (words.size() >= 2 && words[0] == "plans")
    return run_plans(dropbp_test::full_promises() ? 1'000'000 : std::stoull(words[1]));
  if (words.size() >= 5 && words[0] == "fault")
    return run_fault(words[1], std::stoi(words[2]), std::stoull(words[3]), std::stod(words[4]));
  throw std::invalid_argument("see the head of ranks.cpp for the words");
}

}  // namespace

int main(int argc, char** argv) {
  return dropbp::run_with_mpi(argc, argv, [&] { return run(argc, argv); });
}
