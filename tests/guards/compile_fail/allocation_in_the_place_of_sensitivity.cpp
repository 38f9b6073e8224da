// expect: dropbp: the second argument of a measurement is a sensitivity policy
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The handler has its allocation policy already.
#include "branch.hpp"

auto use(dropbp::DropBPHandler<TrainedModel>& handler) {
#ifdef DROPBP_TEST_WRONG
  return handler.allocate_by_sensitivity([] {}, dropbp::GreedyAllocation{});
#else
  return handler.allocate_by_sensitivity([] {}, dropbp::GradientSensitivity{});
#endif
}
