// expect: dropbp: the second argument of allocate is an allocation policy
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// An allocation policy is given the costs and the budget too.
#include <span>
#include <vector>

#include "dropbp/schedule.hpp"

struct Own {
#ifdef DROPBP_TEST_WRONG
  std::vector<double> allocate(std::span<const double> sensitivities) const {
    return std::vector<double>(sensitivities.size());
  }
#else
  std::vector<double> allocate(const dropbp::AllocationInput& input) const {
    return std::vector<double>(input.flops.size());
  }
#endif
};

void use(dropbp::DropSchedule<>& schedule, const std::vector<double>& sensitivities) {
  schedule.allocate(sensitivities, Own{});
}
