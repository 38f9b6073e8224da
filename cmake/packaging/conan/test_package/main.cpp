// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Draws plans with the packaged library: every one must be the same when it is asked for again.
#include <cstdio>

#include <dropbp/dropbp.hpp>

int main() {
  const dropbp::DropSchedule schedule{{1.0, 2.0, 1.0, 2.0}, {.drop_rate = 0.5, .seed = 42}};
  for (std::uint64_t step = 0; step < 4; ++step) {
    const dropbp::DropPlan plan = schedule.plan(step);
    if (plan != schedule.plan(step)) return 1;
    std::printf("step %d: %d of %d branches kept\n", static_cast<int>(step),
                static_cast<int>(plan.kept_count()), static_cast<int>(plan.size()));
  }
}
