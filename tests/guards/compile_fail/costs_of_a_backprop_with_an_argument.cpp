// expect: dropbp: the first argument of a measurement is backprop, a function that is called
// without arguments SPDX-FileCopyrightText: 2026 The dropbp authors SPDX-License-Identifier: MIT

// Nobody hands backprop a batch, to measure costs neither.
#include "branch.hpp"

void use(dropbp::DropBPHandler<PlainModel>& handler) {
#ifdef DROPBP_TEST_WRONG
  handler.measure_costs([](int) {}, [] { return 0.0; });
#else
  handler.measure_costs([] {}, [] { return 0.0; });
#endif
}
