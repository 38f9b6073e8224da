// expect: dropbp: GradientSensitivity keeps and compares every gradient
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A clone is a tensor of the same type.
#include "dropbp/policy/sensitivity.hpp"

struct Field {
  float value = 0;
  struct dropbp_tensor_traits {
    static double squared_norm(const Field& x) { return static_cast<double>(x.value * x.value); }
    static double squared_distance(const Field& x, const Field& y) {
      return squared_norm({x.value - y.value});
    }
#ifdef DROPBP_TEST_WRONG
    static float clone(const Field& x) { return x.value; }
#else
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
