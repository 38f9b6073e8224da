// expect: dropbp: the operation.s backward_parameters would never be called
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The extra arguments go to the optional functions too.
#include <vector>

#include "dropbp/layer.hpp"

using Vector = std::vector<float>;

struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*, float) { return x; }
  Vector backward(const Vector& grad_output, Saved&, float) { return grad_output; }
#ifdef DROPBP_TEST_WRONG
  void backward_parameters(const Vector&, Saved&) {}
#else
  void backward_parameters(const Vector&, Saved&, float) {}
#endif
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& grad) {
  return layer.backward(grad, 1.0f);
}
