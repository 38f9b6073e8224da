// expect: dropbp: the pass of measure_sensitivities_nested needs Gradient backward\(std::size_t
// branch SPDX-FileCopyrightText: 2026 The dropbp authors SPDX-License-Identifier: MIT

// Branches are run backward one by one.
#include "branch.hpp"

struct Pass {
  Vector forward() { return {}; }
#ifdef DROPBP_TEST_WRONG
  Vector backward(const Vector& grad) { return grad; }
#else
  Vector backward(std::size_t, const Vector& grad) { return grad; }
#endif
  void backward_below(const Vector&) {}
  void clear_gradients(std::size_t) {}
};

auto use(dropbp::DropBPHandler<RepeatableModel>& handler, Pass& pass) {
  return handler.measure_sensitivities_nested(pass);
}
