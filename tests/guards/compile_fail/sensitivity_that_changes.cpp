// expect: dropbp: the second argument of a measurement is a sensitivity policy
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A sensitivity policy keeps what it remembers in its Reference.
#include "branch.hpp"

struct Own {
  struct Reference {};
#ifdef DROPBP_TEST_WRONG
  Reference reference(auto&) { return {}; }
#else
  Reference reference(auto&) const { return {}; }
#endif
  double difference(const Reference&, auto&) const { return 0.0; }
};

auto use(dropbp::DropBPHandler<TrainedModel>& handler) {
  return handler.measure_sensitivities([] {}, Own{});
}
