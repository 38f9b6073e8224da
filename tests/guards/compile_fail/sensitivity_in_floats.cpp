// expect: dropbp: the second argument of a measurement is a sensitivity policy
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A sensitivity is a double.
#include "branch.hpp"

struct Own {
  struct Reference {};
  Reference reference(auto&) const { return {}; }
#ifdef DROPBP_TEST_WRONG
  float difference(const Reference&, auto&) const { return 0.0f; }
#else
  double difference(const Reference&, auto&) const { return 0.0; }
#endif
};

auto use(dropbp::DropBPHandler<TrainedModel>& handler) {
  return handler.measure_sensitivities([] {}, Own{});
}
