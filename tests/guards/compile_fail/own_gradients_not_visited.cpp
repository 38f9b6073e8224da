// expect: dropbp: the norm of a branch.s own gradients needs an operation with for_each_gradient
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A running estimate needs the branches' own gradients.
#include "branch.hpp"

struct Visiting : Branch {
#ifndef DROPBP_TEST_WRONG
  Vector gradient;
  template <class Visit>
  void for_each_gradient(Visit&& visit) {
    visit(gradient);
  }
#endif
};

struct Model {
  std::vector<dropbp::DropBPLayer<Visiting>> layers;
  template <class Visit>
  void for_each_layer(Visit&& visit) {
    for (auto& layer : layers) visit(layer);
  }
};

void use(Model& model, dropbp::RunningSensitivity& running) {
  dropbp::DropBPHandler handler{model};
  handler.observe_gradients(running);
}
