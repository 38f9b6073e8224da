// expect: dropbp: backward must return the gradient of its input as a tensor of the type of
// grad_output SPDX-FileCopyrightText: 2026 The dropbp authors SPDX-License-Identifier: MIT

// A residual sum needs the gradient of the input of the type of the one it is added to.
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
  Vector forward(const Vector& x, Saved*) { return x; }
  Result backward(const Vector& grad_output, Saved&) { return Result(grad_output.size()); }
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& grad) { return layer.backward(grad); }
