// expect: dropbp: a handler's model needs for_each_layer\(visit\)
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A handler needs a model that walks over its layers.
#include "branch.hpp"

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
