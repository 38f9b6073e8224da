// expect: dropbp: the pass of measure_sensitivities_nested needs Gradient forward\(\)
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A nested measurement begins with a forward pass.
#include "branch.hpp"

struct Pass {
#ifndef DROPBP_TEST_WRONG
  Vector forward() { return {}; }
#endif
  Vector backward(std::size_t, const Vector& grad) { return grad; }
  void backward_below(const Vector&) {}
  void clear_gradients(std::size_t) {}
};

auto use(dropbp::DropBPHandler<RepeatableModel>& handler, Pass& pass) {
  return handler.measure_sensitivities_nested(pass);
}
