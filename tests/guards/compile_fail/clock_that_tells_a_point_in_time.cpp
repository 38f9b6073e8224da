// expect: dropbp: the second argument of measure_costs is a clock
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A clock tells seconds as a number.
#include <chrono>

#include "branch.hpp"
#include "dropbp/steady_clock.hpp"

void use(dropbp::DropBPHandler<PlainModel>& handler) {
#ifdef DROPBP_TEST_WRONG
  handler.measure_costs([] {}, [] { return std::chrono::steady_clock::now(); });
#else
  handler.measure_costs([] {}, dropbp::SteadyClock{});
#endif
}
