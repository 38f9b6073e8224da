// expect: dropbp: for_each_layer must visit every DropBPLayer itself
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A layer of one's own must have all that the handler uses.
#include "branch.hpp"

struct OwnLayer {
  void decide(const dropbp::BranchDecision&) {}
  double flops() const { return 1.0; }
  dropbp::BranchCalls calls() const { return {}; }
#ifndef DROPBP_TEST_WRONG
  void set_calls(dropbp::BranchCalls) {}
#endif
};

struct Model {
  OwnLayer layer;
  template <class Visit>
  void for_each_layer(Visit&& visit) {
    visit(layer);
  }
};

void use(Model& model) { dropbp::DropBPHandler handler{model}; }
