// expect: dropbp: GradientNormSensitivity needs the norm of every gradient
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The default sensitivity needs norms.
#include <cstdint>
#include <vector>

#include "dropbp/dropbp.hpp"

using Vector = std::vector<float>;

struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*) { return x; }
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
};

struct Field {
  float value = 0;
  struct dropbp_tensor_traits {
    static void accumulate(Field& y, const Field& x) { y.value += x.value; }
#ifndef DROPBP_TEST_WRONG
    static double squared_norm(const Field& x) { return static_cast<double>(x.value * x.value); }
#endif
  };
};

struct Model {
  std::vector<dropbp::DropBPLayer<Branch>> layers;
  Field gradient;
  template <class Visit>
  void for_each_layer(Visit&& visit) {
    for (auto& layer : layers) visit(layer);
  }
  template <class Visit>
  void for_each_gradient(Visit&& visit) {
    visit(gradient);
  }
};

double use(const dropbp::GradientNormSensitivity& policy, Model& model) {
  return policy.difference(policy.reference(model), model);
}
