// expect: dropbp: the second argument of a measurement is a sensitivity policy
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A sensitivity policy compares two passes.
#include "branch.hpp"

struct Own {
  struct Reference {};
  Reference reference(auto&) const { return {}; }
#ifndef DROPBP_TEST_WRONG
  double difference(const Reference&, auto&) const { return 0.0; }
#endif
};

auto use(dropbp::DropBPHandler<TrainedModel>& handler) {
  return handler.measure_sensitivities([] {}, Own{});
}
