// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What examples/bindings must print.
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "dropbp/schedule.hpp"

int main() {
  dropbp::DropSchedule<> schedule(std::vector<double>(8, 1.0), {.drop_rate = 0.5});
  try {
    schedule.set_drop_rate(1.5);
  } catch (const std::exception& error) {
    std::printf("%s\n", error.what());
  }
  for (std::uint64_t step = 0; step < 3; ++step) {
    const dropbp::DropPlan plan = schedule.plan(step);
    std::string dropped;
    for (std::size_t b = 0; b < plan.size(); ++b)
      if (plan.dropped(b)) dropped += (dropped.empty() ? "" : ", ") + std::to_string(b);
    std::printf("step %d drops [%s]\n", static_cast<int>(step), dropped.c_str());
  }
}
