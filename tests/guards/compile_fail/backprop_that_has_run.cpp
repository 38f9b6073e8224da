// expect: dropbp: the first argument of a measurement is backprop, a function that is called
// without arguments SPDX-FileCopyrightText: 2026 The dropbp authors SPDX-License-Identifier: MIT

// The function is handed over, not its result.
#include "branch.hpp"

float backprop();

auto use(dropbp::DropBPHandler<TrainedModel>& handler) {
#ifdef DROPBP_TEST_WRONG
  return handler.allocate_by_sensitivity(backprop());
#else
  return handler.allocate_by_sensitivity(backprop);
#endif
}
