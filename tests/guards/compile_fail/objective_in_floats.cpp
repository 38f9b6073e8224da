// expect: dropbp: an objective of OptimalAllocation is a copyable type with double rate_at
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A rate is a double.
#include <vector>

#include "dropbp/policy/optimal_allocation.hpp"

struct Cubic {
#ifdef DROPBP_TEST_WRONG
  float rate_at(double slope) const { return slope < 3.0 ? 0.5f : 1.0f; }
#else
  double rate_at(double slope) const { return slope < 3.0 ? 0.5 : 1.0; }
#endif
};

std::vector<double> use(const dropbp::AllocationInput& input) {
  return dropbp::OptimalAllocation<Cubic>{}.allocate(input);
}
