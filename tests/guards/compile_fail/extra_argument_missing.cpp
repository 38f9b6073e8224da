// expect: dropbp: the operation needs forward\(const T& x, Saved\* saved, args
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The extra arguments of a call must be those of the operation.
#include <vector>

#include "dropbp/layer.hpp"

using Vector = std::vector<float>;

struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*, const Vector&) { return x; }
  Vector backward(const Vector& grad_output, Saved&, const Vector&) { return grad_output; }
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& x,
           [[maybe_unused]] const Vector& mask) {
#ifdef DROPBP_TEST_WRONG
  return layer.forward(x);
#else
  return layer.forward(x, mask);
#endif
}
