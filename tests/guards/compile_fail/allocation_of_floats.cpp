// expect: dropbp: the second argument of allocate is an allocation policy
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// An allocation policy returns doubles.
#include <vector>

#include "dropbp/schedule.hpp"

struct Own {
#ifdef DROPBP_TEST_WRONG
  std::vector<float> allocate(const dropbp::AllocationInput& input) const {
    return std::vector<float>(input.flops.size());
  }
#else
  std::vector<double> allocate(const dropbp::AllocationInput& input) const {
    return std::vector<double>(input.flops.size());
  }
#endif
};

void use(dropbp::DropSchedule<>& schedule) { schedule.allocate(std::vector<double>{1.0}, Own{}); }
