// expect: dropbp: measure_sensitivities_nested runs each backward several times
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Nested measurements run a backward again on the same Saved, which the operation must allow.
#include "branch.hpp"

struct Repeatable : Branch {
#ifndef DROPBP_TEST_WRONG
  static constexpr bool backward_is_repeatable = true;
#endif
};

struct Model {
  std::vector<dropbp::DropBPLayer<Repeatable>> layers;
  Vector gradient;
  template <class Visit>
  void for_each_layer(Visit&& visit) {
    for (auto& layer : layers) visit(layer);
  }
  template <class Visit>
  void for_each_gradient(Visit&& visit) {
    visit(gradient);
  }
};

struct Pass {
  Model& model;
  Vector forward() { return {}; }
  Vector backward(std::size_t branch, const Vector& grad) {
    return model.layers[branch].backward(grad);
  }
  void backward_below(const Vector&) {}
  void clear_gradients(std::size_t) {}
};

std::vector<double> use(Model& model) {
  dropbp::DropBPHandler handler{model};
  return handler.measure_sensitivities_nested(Pass{model});
}
