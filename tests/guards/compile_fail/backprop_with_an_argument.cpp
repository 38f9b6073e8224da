// expect: dropbp: the first argument of a measurement is backprop, a function that is called
// without arguments SPDX-FileCopyrightText: 2026 The dropbp authors SPDX-License-Identifier: MIT

// Nobody hands backprop a batch.
#include "branch.hpp"

auto use(dropbp::DropBPHandler<TrainedModel>& handler) {
#ifdef DROPBP_TEST_WRONG
  return handler.measure_sensitivities([](int) {});
#else
  return handler.measure_sensitivities([] {});
#endif
}
