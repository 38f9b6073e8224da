// expect: dropbp: the operation needs forward\(const T& x, Saved\* saved, args
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The operation is called with the layer's tensor type.
#include <vector>

#include "dropbp/layer.hpp"

using Vector = std::vector<float>;

struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*) { return x; }
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
};

#ifdef DROPBP_TEST_WRONG
using Input = std::vector<double>;
#else
using Input = Vector;
#endif

Input use(dropbp::DropBPLayer<Branch>& layer, const Input& x) { return layer.forward(x); }
