// expect: dropbp: GradientSensitivity keeps and compares every gradient
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The sensitivity by distance needs copies and distances.
#include "dropbp/policy/sensitivity.hpp"

struct Field {
  float value = 0;
  struct dropbp_tensor_traits {
    static double squared_norm(const Field& x) { return static_cast<double>(x.value * x.value); }
#ifndef DROPBP_TEST_WRONG
    static double squared_distance(const Field& x, const Field& y) {
      return static_cast<double>((x.value - y.value) * (x.value - y.value));
    }
    static Field clone(const Field& x) { return x; }
#endif
  };
};

struct Model {
  Field gradient;
  template <class Visit>
  void for_each_gradient(Visit&& visit) {
    visit(gradient);
  }
};

double use(const dropbp::GradientSensitivity& policy, Model& model) {
  return policy.difference(policy.reference(model), model);
}
