// expect: dropbp: the operation needs forward\(const T& x, Saved\* saved, args...\)
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A layer says of what is wrapped what it would say of it alone.
#include "dropbp/layer.hpp"
#include "dropbp/ops/recompute.hpp"

using Matrix = dropbp::ops::Matrix<float>;

struct Branch {
  struct Saved {};
#ifdef DROPBP_TEST_WRONG
  Matrix forward(const Matrix&) { return Matrix(); }
#else
  Matrix forward(const Matrix&, Saved*) { return Matrix(); }
#endif
  Matrix backward(const Matrix&, Saved&) { return Matrix(); }
};

using Layer = dropbp::DropBPLayer<dropbp::ops::Recompute<Branch, float>>;
Matrix use(Layer& layer, const Matrix& x) { return layer.forward_branch(x); }
