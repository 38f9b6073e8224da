// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Gradients over ranks against a slow sum, with ranks that are threads.
#include "dropbp/interop/gradient_reducer.hpp"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "dropbp/base/philox.hpp"
#include "dropbp/interop/sharded_ranges.hpp"
#include "dropbp/interop/watchdog.hpp"
#include "dropbp/policy/allocation.hpp"
#include "dropbp/schedule.hpp"
#include "support/catch.hpp"
#include "support/thread_communicator.hpp"
#include "support/throws.hpp"

using dropbp::Combine;
using dropbp::DropPlan;
using dropbp::GradientReducer;
using dropbp::ParameterRanges;
using dropbp::PlansOfRanks;
using dropbp::ReducerOptions;
using test::check_throws;
using test::run_ranks;
using test::ThreadCommunicator;

namespace {

using Reducer = GradientReducer<ThreadCommunicator, double>;

constexpr std::size_t branches = 6;
constexpr std::size_t sizes[] = {1, 7, 64, 13, 1, 31};  // of the tensors of a branch
constexpr std::size_t frozen = 3, rest = 5;

// Two tensors of each branch, a frozen one, and a rest without a branch.
struct Net {
  ParameterRanges ranges;
  std::vector<double> gradients;

  Net() {
    std::size_t size = frozen + rest;
    for (const std::size_t count : sizes) size += count + 2;
    ranges = {branches, size};
    std::size_t at = ranges.add({.branch = ParameterRanges::never, .count = frozen});
    for (std::size_t i = 0; i < branches; ++i) at = ranges.add({i, at, sizes[i]});
    ranges.add({.branch = 0, .offset = at, .count = 2, .layers = branches});
    gradients.resize(size);
  }

  // Whole numbers, so that every order of a sum has the same bits.
  void fill(int rank, std::uint64_t step) {
    const dropbp::CounterRandom random(7, dropbp::RandomStream::user, step,
                                       static_cast<std::uint32_t>(rank));
    for (std::size_t i = 0; i < gradients.size(); ++i)
      gradients[i] = static_cast<double>(random(i) % 1000) - 500.0;
  }
};

dropbp::DropSchedule<> schedule_of(std::uint64_t seed, double rate = 0.5) {
  return dropbp::DropSchedule<>{std::vector<double>(branches, 1.0),
                                {.drop_rate = rate, .seed = seed}};
}

// The branch of each element; ParameterRanges::never for a frozen one.
std::vector<std::size_t> owners(const Net& net) {
  std::vector<std::size_t> owner(net.gradients.size(), ParameterRanges::never);
  net.ranges.for_each_range([&](std::size_t branch, std::size_t offset, std::size_t count) {
    std::fill_n(owner.begin() + static_cast<std::ptrdiff_t>(offset), count, branch);
  });
  return owner;
}

// What the ranks have after a step: mean over `keepers` of each branch's ranks, none for none.
std::vector<double> expected(int rank, int ranks, std::uint64_t step,
                             const std::vector<std::vector<bool>>& kept, Combine combine) {
  Net net;
  net.fill(rank, step);
  std::vector<double> result = net.gradients;
  const std::vector<std::size_t> owner = owners(net);
  for (std::size_t i = 0; i < result.size(); ++i) {
    if (owner[i] == ParameterRanges::never) continue;
    double sum = 0.0, count = 0.0;
    for (int r = 0; r < ranks; ++r) {
      if (owner[i] < branches && !kept[static_cast<std::size_t>(r)][owner[i]]) continue;
      Net other;
      other.fill(r, step);
      sum += other.gradients[i];
      ++count;
    }
    if (count == 0.0) continue;
    result[i] = sum * (combine == Combine::mean ? 1.0 / count : ranks / count);
  }
  return result;
}

}  // namespace

TEST_CASE("kept branches have the mean over the ranks, dropped ones are left alone") {
  for (const int ranks : {1, 2, 3, 4})
    for (const std::size_t bucket : {std::size_t{0}, std::size_t{100}, std::size_t{1} << 20})
      for (const Combine combine : {Combine::mean, Combine::sum})
        for (const PlansOfRanks plans : {PlansOfRanks::same, PlansOfRanks::own}) {
          constexpr std::uint64_t steps = 8, micro_steps = 2;
          std::atomic<int> wrong = 0, right = 0;
          const auto seed_of = [&](int rank) {
            return plans == PlansOfRanks::own ? 5 + static_cast<std::uint64_t>(rank) : 5;
          };
          const auto thrown = run_ranks(ranks, [&](ThreadCommunicator& communicator) {
            Net net;
            Reducer reducer(communicator, net.ranges, net.gradients.data(),
                            {.combine = combine, .plans = plans, .bucket_bytes = bucket});
            const auto schedule = schedule_of(seed_of(communicator.rank()), 0.6);
            for (std::uint64_t step = 0; step < steps; ++step) {
              net.fill(communicator.rank(), step);
              double extra[] = {1.0, 10.0 * communicator.rank()};
              for (std::uint32_t micro = 0; micro < micro_steps; ++micro) {
                const DropPlan plan = schedule.plan(step, micro);
                if (micro + 1 < micro_steps)
                  reducer.observe(plan);
                else
                  reducer.begin(plan, communicator.rank() + 1.0, extra);
                // One rank leaves calls out.
                for (std::size_t i = branches; i-- > 0;)
                  if (communicator.rank() != 1 || i % 2 == 0) reducer.passed(i);
              }
              const dropbp::StepSums sums = reducer.finish();
              std::vector<std::vector<bool>> kept(static_cast<std::size_t>(ranks));
              std::vector<bool> any(branches);
              for (int r = 0; r < ranks; ++r)
                for (std::size_t i = 0; i < branches; ++i) {
                  bool is_kept = false;
                  for (std::uint32_t micro = 0; micro < micro_steps; ++micro)
                    is_kept |= schedule_of(seed_of(r), 0.6).plan(step, micro).kept(i);
                  kept[static_cast<std::size_t>(r)].push_back(is_kept);
                  any[i] = any[i] || is_kept;
                }
              const double loss_sum = ranks * (ranks + 1) / 2.0;
              bool ok = net.gradients == expected(communicator.rank(), ranks, step, kept, combine);
              ok = ok && sums.loss == (combine == Combine::mean ? loss_sum / ranks : loss_sum);
              ok = ok && extra[0] == ranks && extra[1] == 5.0 * ranks * (ranks - 1);
              for (std::size_t i = 0; i < branches; ++i)
                ok = ok && reducer.has_gradient(i) == any[i];
              ++(ok ? right : wrong);
            }
          });
          INFO(ranks << " ranks, buckets of " << bucket);
          for (const std::string& what : thrown) CHECK(what == "");
          CHECK(wrong == 0);
          CHECK(right == ranks * static_cast<int>(steps));
        }
}

TEST_CASE("what a step drops is not communicated") {
  std::vector<std::uint64_t> bytes(2), messages(2);
  std::uint64_t kept_bytes = 0;
  const auto schedule = schedule_of(11);
  const Net layout;
  for (std::uint64_t step = 0; step < 20; ++step)
    layout.ranges.for_each_range([&](std::size_t branch, std::size_t, std::size_t count) {
      if (branch == ParameterRanges::always || schedule.plan(step).kept(branch))
        kept_bytes += count * sizeof(double);
    });
  run_ranks(2, [&](ThreadCommunicator& communicator) {
    Net net;
    Reducer reducer(communicator, net.ranges, net.gradients.data());
    for (std::uint64_t step = 0; step < 20; ++step) {
      reducer.begin(schedule.plan(step), 1.0);
      reducer.finish();
    }
    const auto rank = static_cast<std::size_t>(communicator.rank());
    bytes[rank] = reducer.traffic().gradient_bytes;
    messages[rank] = reducer.traffic().messages;
  });
  CHECK(bytes == std::vector<std::uint64_t>(2, kept_bytes));
  CHECK(messages == std::vector<std::uint64_t>(2, 20));  // one bucket holds all
}

namespace {

// The sentences of three ranks after a step in which rank 1 differs.
struct Fault {
  std::string field;
  std::uint64_t seed = 3, step = 17;
  double rate = 0.5, loss = 1.0;
  bool flips = false, resized = false;
  std::uint64_t settings = 0;
};

std::vector<std::string> sentences(const Fault& fault) {
  return run_ranks(3, [&](ThreadCommunicator& communicator) {
    const bool faulty = communicator.rank() == 1;
    const Fault used = faulty ? fault : Fault{};
    std::vector<double> gradient(used.resized ? 9 : 8);
    Reducer reducer(communicator, branches, {.settings = used.settings});
    for (std::size_t i = 0; i < branches; ++i) reducer.add(i, gradient);
    DropPlan plan = schedule_of(used.seed, used.rate).plan(used.step);
    if (used.flips) {
      std::vector<std::uint8_t> mask;
      for (std::size_t i = 0; i < branches; ++i) mask.push_back(plan.dropped(i) != (i == 2));
      plan = DropPlan(mask, {.step = used.step, .rates_hash = plan.rates_hash()});
    }
    reducer.begin(plan, used.loss);
    for (std::size_t i = branches; i-- > 0;) reducer.passed(i);
    reducer.finish();
  });
}

}  // namespace

TEST_CASE("every rank names rank, step, field and both values where ranks disagree") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const Fault& fault :
       {Fault{.field = "the same plan", .seed = 4}, Fault{.field = "the same step", .step = 18},
        Fault{.field = "the same drop rates", .rate = 0.5000001},
        Fault{.field = "the same plan", .flips = true},
        Fault{.field = "the same layout of parameters", .resized = true},
        Fault{.field = "the same settings", .settings = 1},
        Fault{.field = "a finite loss", .loss = nan},
        Fault{.field = "a finite loss", .loss = std::numeric_limits<double>::infinity()}}) {
    const auto thrown = sentences(fault);
    INFO(fault.field);
    CHECK(sentences(Fault{}) == std::vector<std::string>(3));
    for (std::size_t rank = 0; rank < 3; ++rank) {
      const std::size_t other = rank == 1 ? 0 : 1;
      const std::string step = rank == 1 ? std::to_string(fault.step) : "17";
      CHECK_THAT(thrown[rank], contains("all ranks must have " + fault.field));
      CHECK_THAT(thrown[rank], contains("in step " + step + " it is "));
      CHECK_THAT(thrown[rank], contains(" on rank " + std::to_string(rank) + " and "));
      CHECK_THAT(thrown[rank], contains(" on rank " + std::to_string(other) + ": "));
    }
  }
}

TEST_CASE("a loss that is not finite may be left to the caller") {
  std::vector<std::uint64_t> counts(2);
  const auto thrown = run_ranks(2, [&](ThreadCommunicator& communicator) {
    Reducer reducer(communicator, branches, {.stops_on_non_finite_loss = false});
    reducer.begin(DropPlan::keep_all(branches),
                  communicator.rank() == 0 ? 1.0 : std::numeric_limits<double>::infinity());
    counts[static_cast<std::size_t>(communicator.rank())] = reducer.finish().non_finite_losses;
  });
  CHECK(thrown == std::vector<std::string>(2));
  CHECK(counts == std::vector<std::uint64_t>(2, 1));
}

TEST_CASE("a value is agreed on if and only if all ranks have it") {
  // Pairs of values whose bytes have the same sum, and values that differ in one bit.
  for (const std::uint64_t other : {0x0102u, 0x0201u, 0x0003u, 0x8102u}) {
    const auto thrown = run_ranks(4, [&](ThreadCommunicator& communicator) {
      dropbp::require_agreement(communicator, "the same data",
                                communicator.rank() == 2 ? other : 0x0102u, 5, "look");
    });
    for (const std::string& what : thrown) CHECK((what == "") == (other == 0x0102u));
  }
}

TEST_CASE("sensitivities have the same bits on all ranks") {
  std::vector<std::vector<double>> rates(4), sums(4);
  run_ranks(4, [&](ThreadCommunicator& communicator) {
    const auto rank = static_cast<std::size_t>(communicator.rank());
    const dropbp::CounterRandom random(1, dropbp::RandomStream::user, rank, 0);
    std::vector<double> sensitivities;
    for (std::uint32_t i = 0; i < 64; ++i)
      sensitivities.push_back(static_cast<double>(random(i) >> 11) * 0x1p-53);
    dropbp::sum_over_ranks(communicator, sensitivities);
    dropbp::DropSchedule<> schedule{std::vector<double>(64, 1.0)};
    schedule.allocate(sensitivities, dropbp::GreedyAllocation{});
    rates[rank].assign(schedule.drop_rates().begin(), schedule.drop_rates().end());
    sums[rank] = sensitivities;
  });
  std::vector<double> slow(64);
  for (std::uint64_t rank = 0; rank < 4; ++rank) {
    const dropbp::CounterRandom random(1, dropbp::RandomStream::user, rank, 0);
    for (std::uint32_t i = 0; i < 64; ++i)
      slow[i] += static_cast<double>(random(i) >> 11) * 0x1p-53;
  }
  for (std::size_t rank = 0; rank < 4; ++rank) {
    CHECK(sums[rank] == slow);
    CHECK(rates[rank] == rates[0]);
  }
}

TEST_CASE("a reducer refuses calls in another order and branches that do not exist") {
  dropbp::SingleCommunicator alone;
  GradientReducer<dropbp::SingleCommunicator, float> reducer(alone, 2);
  std::vector<float> gradient(3);
  reducer.add(1, gradient);
  check_throws<std::invalid_argument>([&] { reducer.add(2, gradient); }, {"below 2", "it is 2"});
  check_throws<std::logic_error>([&] { reducer.finish(); }, {"begin(plan, loss)"});
  check_throws<std::invalid_argument>([&] { reducer.begin(DropPlan::keep_all(3), 1.0); },
                                      {"one decision in a plan per branch", "3 were given"});
  reducer.begin(DropPlan::keep_all(2), 1.0);
  check_throws<std::logic_error>([&] { reducer.begin(DropPlan::keep_all(2), 1.0); },
                                 {"finish() was not called"});
  check_throws<std::logic_error>([&] { reducer.add(1, gradient); }, {"a step has begun"});
  CHECK(reducer.finish().loss == 1.0);
}

// Gradients with momentum; `moments` at the range's own place.
void update(std::vector<double>& weights, const std::vector<double>& gradients,
            const dropbp::TrainedRange& range, double* moments) {
  for (std::size_t i = 0; i < range.count; ++i) {
    moments[i] = 0.5 * moments[i] + gradients[range.offset + i];
    weights[range.offset + i] -= moments[i] / static_cast<double>(range.updates);
  }
}

TEST_CASE("optimizer state that is spread over ranks gives the same weights") {
  Net alone;
  std::vector<double> weights(alone.gradients.size(), 1.0), moments(weights.size());
  const auto schedule = schedule_of(21);
  for (std::uint64_t step = 0; step < 15; ++step) {
    alone.fill(0, step);
    for (const dropbp::TrainedRange& range : alone.ranges.end_step(schedule.plan(step)))
      update(weights, alone.gradients, range, moments.data() + range.offset);
  }
  for (const int ranks : {1, 2, 3}) {
    std::vector<std::vector<double>> got(static_cast<std::size_t>(ranks));
    std::vector<std::size_t> shares;
    const auto thrown = run_ranks(ranks, [&](ThreadCommunicator& communicator) {
      Net net;
      std::vector<double> own(net.gradients.size(), 1.0);
      dropbp::ShardedRanges<ThreadCommunicator, double> shards(communicator, net.ranges,
                                                               own.data());
      std::vector<double> own_moments(shards.size());
      for (std::uint64_t step = 0; step < 15; ++step) {
        net.fill(0, step);  // as if they were summed already
        const auto trained = net.ranges.end_step(schedule.plan(step));
        for (const dropbp::TrainedRange& range : trained)
          if (shards.owns(range))
            update(own, net.gradients, range, own_moments.data() + shards.place(range));
        shards.share(trained);
      }
      got[static_cast<std::size_t>(communicator.rank())] = own;
      if (communicator.rank() == 0) shares.assign(shards.sizes().begin(), shards.sizes().end());
    });
    INFO(ranks << " ranks");
    for (const std::string& what : thrown) CHECK(what == "");
    for (const auto& of_rank : got) CHECK(of_rank == weights);
    std::size_t all = 0;
    for (const std::size_t size : shares) all += size;
    CHECK(all == weights.size() - frozen);
    // The largest range has 64 of the 134 elements.
    CHECK(*std::max_element(shares.begin(), shares.end()) == (ranks == 1   ? 134u
                                                              : ranks == 2 ? 67u
                                                                           : 64u));
  }
}

TEST_CASE("a watchdog calls once where a step lasts too long") {
  std::atomic<int> calls = 0;
  std::string sentence;
  {
    dropbp::Watchdog watchdog(std::chrono::milliseconds(60), [&](const std::string& what) {
      sentence = what;
      ++calls;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    CHECK(calls == 0);  // no step has begun
    watchdog.begin_step(41);
    while (calls == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
  }
  CHECK(calls == 1);
  CHECK_THAT(sentence, contains("a step must end within 0.06 s, but step 41 has not"));
  check_throws<std::invalid_argument>(
      [] { dropbp::Watchdog(std::chrono::seconds(0), [](const std::string&) {}); },
      {"must be positive", "it is 0 s"});
}
