// expect: dropbp: the pass of measure_sensitivities_nested needs void clear_gradients
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Each nested pass begins with absent gradients.
#include "branch.hpp"

struct Pass {
  Vector forward() { return {}; }
  Vector backward(std::size_t, const Vector& grad) { return grad; }
  void backward_below(const Vector&) {}
#ifndef DROPBP_TEST_WRONG
  void clear_gradients(std::size_t) {}
#endif
};

auto use(dropbp::DropBPHandler<RepeatableModel>& handler, Pass& pass) {
  return handler.measure_sensitivities_nested(pass);
}
