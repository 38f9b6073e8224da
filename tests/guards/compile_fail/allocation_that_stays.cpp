// expect: dropbp: the second argument of allocate is an allocation policy
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// An allocation policy is a value.
#include <span>
#include <vector>

#include "dropbp/schedule.hpp"

struct Own {
#ifdef DROPBP_TEST_WRONG
  const double rate = 0.5;
#else
  double rate = 0.5;
#endif
  std::vector<double> allocate(const dropbp::AllocationInput& input) const {
    return std::vector<double>(input.flops.size());
  }
};

void use(dropbp::DropSchedule<>& schedule, const std::vector<double>& sensitivities) {
  schedule.allocate(sensitivities, Own{});
}
