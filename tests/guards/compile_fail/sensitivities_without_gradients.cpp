// expect: dropbp: measuring sensitivities needs a model with for_each_gradient\(visit\)
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Sensitivities need the gradients.
#include "branch.hpp"

struct Model {
  std::vector<dropbp::DropBPLayer<Branch>> layers;
  Vector gradient;
  template <class Visit>
  void for_each_layer(Visit&& visit) {
    for (auto& layer : layers) visit(layer);
  }
#ifndef DROPBP_TEST_WRONG
  template <class Visit>
  void for_each_gradient(Visit&& visit) {
    visit(gradient);
  }
#endif
};

std::vector<double> use(Model& model) {
  dropbp::DropBPHandler handler{model};
  return handler.measure_sensitivities([] {});
}
