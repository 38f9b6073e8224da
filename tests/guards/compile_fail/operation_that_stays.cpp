// expect: dropbp: a layer owns its operation, which must be movable
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The layer owns its operation.
#include <atomic>
#include <memory>
#include <vector>

#include "dropbp/layer.hpp"

using Vector = std::vector<float>;

struct Branch {
  struct Saved {};
#ifdef DROPBP_TEST_WRONG
  std::atomic<int> calls = 0;
#else
  std::unique_ptr<std::atomic<int>> calls;
#endif
  Vector forward(const Vector& x, Saved*) { return x; }
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& x) { return layer.forward(x); }
