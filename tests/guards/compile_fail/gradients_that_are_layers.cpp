// expect: dropbp: GradientNormSensitivity needs the norm of every gradient
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// for_each_gradient visits tensors.
#include "branch.hpp"

struct Model : PlainModel {
  Vector gradient;
  template <class Visit>
  void for_each_gradient(Visit&& visit) {
#ifdef DROPBP_TEST_WRONG
    for (auto& layer : layers) visit(layer);
#else
    visit(gradient);
#endif
  }
};

std::vector<double> use(Model& model) {
  dropbp::DropBPHandler handler{model};
  return handler.measure_sensitivities([] {});
}
