// expect: dropbp: observe_gradients needs layers with double squared_gradient_norm
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A running estimate asks the layers.
#include "branch.hpp"

struct OwnLayer {
  void decide(const dropbp::BranchDecision&) {}
  double flops() const { return 1.0; }
  dropbp::BranchCalls calls() const { return {}; }
  void set_calls(dropbp::BranchCalls) {}
#ifndef DROPBP_TEST_WRONG
  double squared_gradient_norm() { return 0.0; }
#endif
};

struct Model {
  OwnLayer layer;
  template <class Visit>
  void for_each_layer(Visit&& visit) {
    visit(layer);
  }
};

void use(dropbp::DropBPHandler<Model>& handler, dropbp::RunningSensitivity& running) {
  handler.observe_gradients(running);
}
