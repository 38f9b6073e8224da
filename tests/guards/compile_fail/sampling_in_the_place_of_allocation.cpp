// expect: dropbp: a handler's second type and third argument is an allocation policy
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The allocation policy comes before the sampling policy.
#include "branch.hpp"

void use(PlainModel& model) {
#ifdef DROPBP_TEST_WRONG
  dropbp::DropBPHandler handler{model, {}, dropbp::AtLeastTargetSampling{}};
#else
  dropbp::DropBPHandler handler{
      model, {}, dropbp::GreedyAllocation{}, dropbp::AtLeastTargetSampling{}};
#endif
}
