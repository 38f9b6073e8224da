// expect: dropbp: an operation needs a default-constructible, movable member type `struct Saved`
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

#include <vector>

#include "dropbp/layer.hpp"

struct Branch {
#ifndef DROPBP_TEST_WRONG
  struct Saved {};
#endif
  std::vector<float> forward(const std::vector<float>& x, void*) { return x; }
  std::vector<float> backward(const std::vector<float>& grad_output, auto&) { return grad_output; }
};

std::vector<float> use(dropbp::DropBPLayer<Branch>& layer, const std::vector<float>& x) {
  return layer.forward(x);
}
