// expect: dropbp: the operation.s trains\(\) must be const and return a bool
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A frozen branch that nobody asks would count as one that trains.
#include <vector>

#include "dropbp/layer.hpp"

using Vector = std::vector<float>;

struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*) { return x; }
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
#ifdef DROPBP_TEST_WRONG
  bool trainable() { return false; }
#else
  bool trainable() const { return false; }
#endif
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& x) { return layer.forward(x); }
