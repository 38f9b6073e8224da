// expect: dropbp: for_each_layer must visit every DropBPLayer itself
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What a model visits must be layers.
#include <cstdint>
#include <vector>

#include "dropbp/dropbp.hpp"

using Vector = std::vector<float>;

struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*) { return x; }
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
};

struct Model {
  std::vector<dropbp::DropBPLayer<Branch>> layers;
  template <class Visit>
  void for_each_layer(Visit&& visit) {
#ifdef DROPBP_TEST_WRONG
    for (auto& layer : layers) visit(layer.op());
#else
    for (auto& layer : layers) visit(layer);
#endif
  }
};

void use(Model& model) { dropbp::DropBPHandler handler{model}; }
