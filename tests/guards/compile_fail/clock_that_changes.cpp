// expect: dropbp: the second argument of measure_costs is a clock
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A clock is read as a constant.
#include "branch.hpp"

void use(dropbp::DropBPHandler<PlainModel>& handler) {
#ifdef DROPBP_TEST_WRONG
  handler.measure_costs([] {}, [seconds = 0.0]() mutable { return seconds += 1.0; });
#else
  handler.measure_costs([] {}, [seconds = 0.0] { return seconds; });
#endif
}
