// expect: dropbp: a handler's model needs for_each_layer\(visit\)
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A handler needs a model that walks over its layers.
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
#ifndef DROPBP_TEST_WRONG
  template <class Visit>
  void for_each_layer(Visit&& visit) {
    for (auto& layer : layers) visit(layer);
  }
#endif
};

void use(Model& model) { dropbp::DropBPHandler<Model> handler(model); }
