// expect: dropbp: Recompute wraps an operation, with a default-constructible, movable member type
// `struct Saved` SPDX-FileCopyrightText: 2026 The dropbp authors SPDX-License-Identifier: MIT

// What is computed again must know what its backward pass needs.
#include "dropbp/layer.hpp"
#include "dropbp/ops/recompute.hpp"

using Matrix = dropbp::ops::Matrix<float>;

struct Branch {
#ifndef DROPBP_TEST_WRONG
  struct Saved {};
#endif
  Matrix forward(const Matrix&, void*) { return Matrix(); }
  Matrix backward(const Matrix&, auto&) { return Matrix(); }
};

dropbp::ops::Recompute<Branch, float> use(dropbp::ops::MemoryPool pool) { return {Branch{}, pool}; }
