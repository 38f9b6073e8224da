// expect: dropbp: this gradient type does not know y \+= x
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What goes through backward must be a tensor.
#include <list>
#include <utility>
#include <vector>

#include "dropbp/layer.hpp"

#ifdef DROPBP_TEST_WRONG
using Gradient = std::list<float>;
#else
using Gradient = std::vector<float>;
#endif

struct Branch {
  struct Saved {};
  Gradient forward(const Gradient& x, Saved*) { return x; }
  Gradient backward(const Gradient& grad_output, Saved&) { return grad_output; }
};

Gradient use(dropbp::DropBPLayer<Branch>& layer, Gradient grad) {
  return layer.backward(std::move(grad));
}
