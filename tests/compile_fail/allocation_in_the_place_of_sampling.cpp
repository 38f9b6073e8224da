// expect: dropbp: a handler's third type and fourth argument is a sampling policy
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The sampling policy comes after the allocation policy.
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
    for (auto& layer : layers) visit(layer);
  }
};

void use(Model& model) {
#ifdef DROPBP_TEST_WRONG
  dropbp::DropBPHandler handler{model, {}, dropbp::GreedyAllocation{}, dropbp::UniformAllocation{}};
#else
  dropbp::DropBPHandler handler{model, {}, dropbp::GreedyAllocation{}, dropbp::BernoulliSampling{}};
#endif
}
