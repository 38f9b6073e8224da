// expect: dropbp: the operation.s backward_parameters would never be called
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Like backward, backward_parameters is given a reference.
#include <vector>

#include "dropbp/layer.hpp"

using Vector = std::vector<float>;

struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*) { return x; }
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
#ifdef DROPBP_TEST_WRONG
  void backward_parameters(const Vector&, Saved*) {}
#else
  void backward_parameters(const Vector&, Saved&) {}
#endif
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& x) { return layer.forward(x); }
