// expect: dropbp: GradientNormSensitivity needs the norm of every gradient
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A bare nullptr does not say of which type the gradient would be.
#include <vector>

#include "dropbp/policy/sensitivity.hpp"

struct Model {
  template <class Visit>
  void for_each_gradient(Visit&& visit) {
#ifdef DROPBP_TEST_WRONG
    visit(nullptr);
#else
    visit(static_cast<const std::vector<float>*>(nullptr));
#endif
  }
};

dropbp::GradientNormSensitivity::Reference use(const dropbp::GradientNormSensitivity& policy,
                                               Model& model) {
  return policy.reference(model);
}
