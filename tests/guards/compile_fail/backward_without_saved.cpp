// expect: dropbp: the operation needs backward\(const T& grad_output, Saved& saved, args
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Backward is handed what forward saved.
#include <vector>

#include "dropbp/layer.hpp"

using Vector = std::vector<float>;

struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*) { return x; }
#ifdef DROPBP_TEST_WRONG
  Vector backward(const Vector& grad_output) { return grad_output; }
#else
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
#endif
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& grad) { return layer.backward(grad); }
