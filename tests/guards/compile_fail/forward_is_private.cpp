// expect: dropbp: the operation needs forward\(const T& x, Saved\* saved, args
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The layer calls forward.
#include <vector>

#include "dropbp/layer.hpp"

using Vector = std::vector<float>;

class Branch {
 public:
  struct Saved {};
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
#ifdef DROPBP_TEST_WRONG

 private:
#endif
  Vector forward(const Vector& x, Saved*) { return x; }
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& x) { return layer.forward(x); }
