// expect: dropbp: backward_residual must add the input.s gradient to grad in place and return
// nothing SPDX-FileCopyrightText: 2026 The dropbp authors SPDX-License-Identifier: MIT

// What backward_residual returns would be lost.
#include <vector>

#include "dropbp/layer.hpp"

using Vector = std::vector<float>;

struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*) { return x; }
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
#ifdef DROPBP_TEST_WRONG
  Vector backward_residual(const Vector& grad, Saved&) { return grad; }
#else
  void backward_residual(Vector&, Saved&) {}
#endif
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& grad) { return layer.backward(grad); }
