// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A projected shortcut, as in a ResNet where the width changes: y = P x + branch(x). The branch may
// be dropped; the projection never is.
#include "recipe.hpp"

struct Block {
  dropbp::DropBPLayer<Linear> branch;
  Linear projection;  // in a ResNet a convolution of size 1
  Linear::Saved saved = {};

  Block(std::uint64_t seed, std::size_t in, std::size_t out)
      : branch(Linear(2 * seed, in, out)), projection(2 * seed + 1, in, out) {}

  Vector forward(const Vector& x) {
    return projection.forward(x, &saved) + branch.forward_branch(x);
  }
  Vector backward(const Vector& grad) {
    const auto by_branch = branch.backward_branch(grad);  // empty where it is dropped
    Vector grad_input = projection.backward(grad, saved);
    return by_branch ? grad_input + *by_branch : grad_input;
  }
};

struct Model {
  std::vector<Block> blocks;
  Vector y;

  void for_each_layer(auto&& visit) {
    for (Block& block : blocks) visit(block.branch);
  }
  std::vector<Weight> weights() {
    std::vector<Weight> weights;
    for (Block& block : blocks)
      for (Linear* linear : {&block.branch.op(), &block.projection})
        append(weights, linear->weight, linear->gradient);
    return weights;
  }
  double loss() {
    y.assign(4, 0.3);
    for (Block& block : blocks) y = block.forward(y);
    double sum = 0;
    for (const double one : y) sum += one * one / 2;
    return sum;
  }
  void backward() {
    Vector grad = y;
    for (std::size_t l = blocks.size(); l-- > 0;) grad = blocks[l].backward(grad);
  }
};

int main() {
  Model model;
  for (std::uint64_t l = 0; l < 4; ++l) model.blocks.emplace_back(l, 4 + l, 5 + l);
  // trainable_below stays true: the projections below a branch train.
  dropbp::DropBPHandler handler{model, {.drop_rate = 0.5, .seed = 1}};
  return check(model, handler);
}
