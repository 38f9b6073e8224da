// expect: dropbp: an objective of OptimalAllocation is a copyable type with double rate_at
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// An objective is the inverse of a derivative, not phi itself.
#include "branch.hpp"

struct Cubic {
#ifdef DROPBP_TEST_WRONG
  double operator()(double rate) const { return rate * rate * rate; }
#else
  double rate_at(double slope) const { return slope < 3.0 ? slope / 3.0 : 1.0; }
#endif
};

std::vector<double> use(const dropbp::AllocationInput& input) {
  return dropbp::OptimalAllocation<Cubic>{}.allocate(input);
}
