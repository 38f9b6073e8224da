// expect: dropbp: for_each_layer must visit every DropBPLayer itself
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What a model visits must be layers.
#include "branch.hpp"

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
