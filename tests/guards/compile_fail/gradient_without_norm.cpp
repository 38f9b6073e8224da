// expect: dropbp: GradientNormSensitivity needs the norm of every gradient
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The default sensitivity needs norms.
#include "dropbp/policy/sensitivity.hpp"

struct Field {
  float value = 0;
  struct dropbp_tensor_traits {
#ifndef DROPBP_TEST_WRONG
    static double squared_norm(const Field& x) { return static_cast<double>(x.value * x.value); }
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

double use(const dropbp::GradientNormSensitivity& policy, Model& model) {
  return policy.difference(policy.reference(model), model);
}
