// expect: dropbp: forward must return f\(x\) as a tensor of the type of x
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A residual sum needs f(x) of the type of x.
#include <vector>

#include "dropbp/layer.hpp"

using Vector = std::vector<float>;

struct Branch {
  struct Saved {};
#ifdef DROPBP_TEST_WRONG
  using Result = std::vector<double>;
#else
  using Result = Vector;
#endif
  Result forward(const Vector& x, Saved*) { return Result(x.size()); }
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& x) { return layer.forward(x); }
