// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A const handler may be read by many threads at a time. Without ThreadSanitizer the test compares
// results alone; with it, it also sees whether reading writes something.
#include <barrier>
#include <cstddef>
#include <cstdint>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "dropbp/handler.hpp"
#include "dropbp/policy/fixed_budget_sampling.hpp"
#include "dropbp/policy/optimal_allocation.hpp"
#include "dropbp/report.hpp"
#include "dropbp/state.hpp"
#include "support/catch.hpp"
#include "support/recorder.hpp"

using namespace dropbp_test;
using dropbp::DropBPHandler;

namespace {

using Chain = RecorderChain<12>;

/// All that a const handler says, as text; the plans are those of 40 steps.
template <class Handler>
std::string all_of(const Handler& handler) {
  std::string text = to_text(handler.state()) + to_text(handler.report());
  for (std::uint64_t step = 0; step < 40; ++step) {
    const dropbp::DropPlan plan = handler.schedule().plan(step, step % 2 == 0 ? 0 : 3);
    text += std::to_string(plan.fingerprint()) + ' ';
    for (const double rate : handler.schedule().drop_rates_at(step)) text += std::to_string(rate);
  }
  for (std::size_t i = 0; i < handler.size(); ++i) {
    text +=
        std::to_string(handler.learning_rate_scale(i)) + std::to_string(handler.drop_rates()[i]);
    text += handler.has_gradient(i) ? 'g' : '-';
    text += handler.plan().dropped(i) ? 'd' : 'k';
  }
  return text + std::to_string(handler.schedule().max_kept()) +
         std::to_string(handler.all_dropped());
}

template <class Handler>
void read_from_eight_threads(Handler& handler) {
  handler.begin_step(7);
  const Handler& shared = handler;
  const std::string expected = all_of(shared);
  std::vector<std::string> texts(8);
  std::barrier begin(8);
  std::vector<std::thread> threads;
  for (std::string& text : texts)
    threads.emplace_back([&] {
      begin.arrive_and_wait();
      text = all_of(shared);
    });
  for (std::thread& thread : threads) thread.join();
  for (const std::string& text : texts) CHECK(text == expected);
}

}  // namespace

TEST_CASE("A const handler is read by eight threads at a time") {
  Chain model, budget_model;
  DropBPHandler handler{model, {.drop_rate = 0.5, .seed = 3, .warmup_steps = 20}};
  read_from_eight_threads(handler);
  DropBPHandler budget{budget_model,
                       {.drop_rate = 0.25, .seed = 3},
                       dropbp::OptimalAllocation<>{},
                       dropbp::FixedBudgetSampling{}};
  read_from_eight_threads(budget);
}
