// expect: dropbp: the operation needs forward\(const T& x, Saved\* saved, args\.\.\.\), which
// returns f\(x\) SPDX-FileCopyrightText: 2026 The dropbp authors SPDX-License-Identifier: MIT

// What forward computes is returned, not written into its argument.
#include <vector>

#include "dropbp/layer.hpp"

using Vector = std::vector<float>;

struct Branch {
  struct Saved {};
#ifdef DROPBP_TEST_WRONG
  void forward(const Vector&, Saved*) {}
#else
  Vector forward(const Vector& x, Saved*) { return x; }
#endif
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& x) { return layer.forward(x); }
