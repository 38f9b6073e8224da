// expect: dropbp: the operation.s forward_residual would never be called
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Like forward, forward_residual is given a pointer.
#include <utility>
#include <vector>

#include "dropbp/layer.hpp"

using Vector = std::vector<float>;

struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*) { return x; }
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
#ifdef DROPBP_TEST_WRONG
  void forward_residual(Vector&, Saved&) {}
#else
  void forward_residual(Vector&, Saved*) {}
#endif
};

Vector use(dropbp::DropBPLayer<Branch>& layer, Vector x) { return layer.forward(std::move(x)); }
