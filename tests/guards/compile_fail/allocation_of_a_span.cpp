// expect: dropbp: the second argument of allocate is an allocation policy
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Rates are returned, not pointed to.
#include <span>
#include <vector>

#include "dropbp/schedule.hpp"

struct Own {
#ifdef DROPBP_TEST_WRONG
  std::span<const double> allocate(const dropbp::AllocationInput& input) const {
    return input.flops;
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
