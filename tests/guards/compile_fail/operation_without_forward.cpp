// expect: dropbp: the operation needs forward\(const T& x, Saved\* saved, args
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// An operation needs a forward that takes a constant x.
#include <vector>

#include "dropbp/layer.hpp"

using Vector = std::vector<float>;

struct Branch {
  struct Saved {};
#ifdef DROPBP_TEST_WRONG
  Vector forward(Vector& x, Saved*) { return x; }
#else
  Vector forward(const Vector& x, Saved*) { return x; }
#endif
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& x) { return layer.forward_branch(x); }
