// expect: dropbp: the pass of measure_sensitivities_nested needs void backward_below
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What lies below the branches has gradients too.
#include "branch.hpp"

struct Pass {
  Vector forward() { return {}; }
  Vector backward(std::size_t, const Vector& grad) { return grad; }
#ifndef DROPBP_TEST_WRONG
  void backward_below(const Vector&) {}
#endif
  void clear_gradients(std::size_t) {}
};

auto use(dropbp::DropBPHandler<RepeatableModel>& handler, Pass& pass) {
  return handler.measure_sensitivities_nested(pass);
}
