// expect: dropbp: the operation needs forward\(const T& x, Saved\* saved, args
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A layer of a constant operation can only call constant functions.
#include <vector>

#include "dropbp/layer.hpp"

using Vector = std::vector<float>;

struct Branch {
  struct Saved {};
#ifdef DROPBP_TEST_WRONG
  Vector forward(const Vector& x, Saved*) { return x; }
#else
  Vector forward(const Vector& x, Saved*) const { return x; }
#endif
  Vector backward(const Vector& grad_output, Saved&) const { return grad_output; }
};

Vector use(dropbp::DropBPLayer<const Branch>& layer, const Vector& x) { return layer.forward(x); }
