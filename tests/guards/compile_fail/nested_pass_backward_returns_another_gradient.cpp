// expect: dropbp: the pass of measure_sensitivities_nested needs Gradient backward\(std::size_t
// branch SPDX-FileCopyrightText: 2026 The dropbp authors SPDX-License-Identifier: MIT

// All gradients of the residual stream are of one type.
#include "branch.hpp"

struct Pass {
  Vector forward() { return {}; }
#ifdef DROPBP_TEST_WRONG
  std::vector<double> backward(std::size_t, const Vector& grad) {
    return std::vector<double>(grad.size());
  }
#else
  Vector backward(std::size_t, const Vector& grad) { return grad; }
#endif
  void backward_below(const Vector&) {}
  void clear_gradients(std::size_t) {}
};

auto use(dropbp::DropBPHandler<RepeatableModel>& handler, Pass& pass) {
  return handler.measure_sensitivities_nested(pass);
}
