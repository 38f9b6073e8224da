// expect: dropbp: an operation needs a default-constructible, movable member type `struct Saved`
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The layer moves what an operation saves.
#include <atomic>
#include <vector>

#include "dropbp/layer.hpp"

using Vector = std::vector<float>;

struct Branch {
  struct Saved {
#ifdef DROPBP_TEST_WRONG
    std::atomic<int> reads = 0;
#endif
  };
  Vector forward(const Vector& x, Saved*) { return x; }
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& x) { return layer.forward(x); }
