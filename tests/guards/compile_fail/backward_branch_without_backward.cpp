// expect: dropbp: the operation needs backward\(const T& grad_output, Saved& saved, args
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The branch face needs a backward too.
#include <vector>

#include "dropbp/layer.hpp"

using Vector = std::vector<float>;

struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*) { return x; }
#ifndef DROPBP_TEST_WRONG
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
#endif
};

auto use(dropbp::DropBPLayer<Branch>& layer, const Vector& grad) {
  return layer.backward_branch(grad);
}
