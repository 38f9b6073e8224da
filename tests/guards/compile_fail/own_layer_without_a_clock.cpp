// expect: dropbp: measure_costs needs layers with set_clock
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Only layers that take the time can be timed.
#include "branch.hpp"

struct OwnLayer {
  void decide(const dropbp::BranchDecision&) {}
  double flops() const { return 1.0; }
  dropbp::BranchCalls calls() const { return {}; }
  void set_calls(dropbp::BranchCalls) {}
#ifndef DROPBP_TEST_WRONG
  void set_clock(auto) {}
  dropbp::BranchTimes times() const { return {}; }
#endif
};

struct Model {
  OwnLayer layer;
  template <class Visit>
  void for_each_layer(Visit&& visit) {
    visit(layer);
  }
};

void use(dropbp::DropBPHandler<Model>& handler) {
  handler.measure_costs([] {}, [] { return 0.0; });
}
