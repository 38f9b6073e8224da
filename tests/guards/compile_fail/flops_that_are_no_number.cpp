// expect: dropbp: the operation.s flops\(\) must be const and return a number
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A cost is a number.
#include <vector>

#include "dropbp/layer.hpp"

using Vector = std::vector<float>;

struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*) { return x; }
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
#ifdef DROPBP_TEST_WRONG
  Vector flops() const { return {8.0f}; }
#else
  float flops() const { return 8.0f; }
#endif
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& x) { return layer.forward(x); }
