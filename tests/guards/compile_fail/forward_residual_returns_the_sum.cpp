// expect: dropbp: forward_residual must add f.x. to x in place and return nothing
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What forward_residual returns would be lost.
#include <utility>
#include <vector>

#include "dropbp/layer.hpp"

using Vector = std::vector<float>;

struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*) { return x; }
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
#ifdef DROPBP_TEST_WRONG
  Vector forward_residual(const Vector& x, Saved*) { return x; }
#else
  void forward_residual(Vector&, Saved*) {}
#endif
};

Vector use(dropbp::DropBPLayer<Branch>& layer, Vector x) { return layer.forward(std::move(x)); }
