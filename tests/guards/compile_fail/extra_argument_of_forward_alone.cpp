// expect: dropbp: the operation needs backward\(const T& grad_output, Saved& saved, args
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// An extra argument goes to forward and backward alike.
#include <vector>

#include "dropbp/layer.hpp"

using Vector = std::vector<float>;

struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*, float) { return x; }
#ifdef DROPBP_TEST_WRONG
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
#else
  Vector backward(const Vector& grad_output, Saved&, float) { return grad_output; }
#endif
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& x) { return layer.forward(x, 1.0f); }
