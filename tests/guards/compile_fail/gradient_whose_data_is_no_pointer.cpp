// expect: dropbp: data\(\) of this tensor type must return a pointer to its elements
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Gradients are asked for their norms where no layer has seen their type.
#include <cstddef>
#include <string>
#include <vector>

#include "dropbp/policy/sensitivity.hpp"

#ifdef DROPBP_TEST_WRONG
using Gradient = std::vector<std::string>;
#else
using Gradient = std::vector<float>;
#endif

struct Model {
  Gradient gradient;
  template <class Visit>
  void for_each_gradient(Visit&& visit) {
    visit(gradient);
  }
};

dropbp::GradientNormSensitivity::Reference use(const dropbp::GradientNormSensitivity& policy,
                                               Model& model) {
  return policy.reference(model);
}
