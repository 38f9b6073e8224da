// expect: dropbp: an operation needs a default-constructible, movable member type `struct Saved`
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The layer keeps what an operation saves: it must see the type.
#include <vector>

#include "dropbp/layer.hpp"

using Vector = std::vector<float>;

class Branch {
#ifndef DROPBP_TEST_WRONG
 public:
#endif
  struct Saved {};

 public:
  Vector forward(const Vector& x, Saved*) { return x; }
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& x) { return layer.forward(x); }
