// expect: dropbp: a handler's third type and fourth argument is a sampling policy
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The sampling policy comes after the allocation policy.
#include "branch.hpp"

void use(PlainModel& model) {
#ifdef DROPBP_TEST_WRONG
  dropbp::DropBPHandler handler{model, {}, dropbp::GreedyAllocation{}, dropbp::UniformAllocation{}};
#else
  dropbp::DropBPHandler handler{model, {}, dropbp::GreedyAllocation{}, dropbp::BernoulliSampling{}};
#endif
}
