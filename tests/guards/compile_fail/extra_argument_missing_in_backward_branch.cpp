// expect: dropbp: the operation needs backward\(const T& grad_output, Saved& saved, args
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The extra arguments of forward_branch go to backward_branch too.
#include <vector>

#include "dropbp/layer.hpp"

using Vector = std::vector<float>;

struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*, const Vector&) { return x; }
  Vector backward(const Vector& grad_output, Saved&, const Vector&) { return grad_output; }
};

auto use(dropbp::DropBPLayer<Branch>& layer, const Vector& grad,
         [[maybe_unused]] const Vector& mask) {
#ifdef DROPBP_TEST_WRONG
  return layer.backward_branch(grad);
#else
  return layer.backward_branch(grad, mask);
#endif
}
