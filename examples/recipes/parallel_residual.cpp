// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Parallel residuals, as in GPT-J: both branches of a block read one norm of its input,
//   n = gain * x;  y = x + attention(n) + mlp(n)
#include "recipe.hpp"

using Branch = dropbp::DropBPLayer<Linear>;

struct Block {
  Vector gain = Vector(width, 1.1), gain_gradient = Vector(width);
  Branch attention, mlp;
  Vector input = {};  // what the norm saves

  explicit Block(std::uint64_t seed) : attention(Linear(2 * seed)), mlp(Linear(2 * seed + 1)) {}

  Vector forward(const Vector& x) {
    Vector n = input = x;
    for (std::size_t i = 0; i < width; ++i) n[i] *= gain[i];
    return x + attention.forward_branch(n) + mlp.forward_branch(n);
  }

  Vector backward(Vector grad) {
    const auto by_mlp = mlp.backward_branch(grad), by_attention = attention.backward_branch(grad);
    for (const auto& grad_norm : {by_mlp, by_attention}) {
      if (!grad_norm) continue;  // dropped: it gives the norm nothing
      for (std::size_t i = 0; i < width; ++i) {
        gain_gradient[i] += (*grad_norm)[i] * input[i];
        grad[i] += (*grad_norm)[i] * gain[i];
      }
    }
    return grad;
  }
};

struct Model {
  std::vector<Block> blocks;
  Vector y;

  void for_each_layer(auto&& visit) {
    for (Block& block : blocks) visit(block.attention), visit(block.mlp);
  }
  std::vector<Weight> weights() {
    std::vector<Weight> weights;
    for (Block& block : blocks) {
      append(weights, block.gain, block.gain_gradient);
      for (Branch* branch : {&block.attention, &block.mlp})
        append(weights, branch->op().weight, branch->op().gradient);
    }
    return weights;
  }
  double loss() {
    y.assign(width, 0.3);
    for (Block& block : blocks) y = block.forward(y);
    double sum = 0;
    for (const double one : y) sum += one * one / 2;
    return sum;
  }
  void backward() {
    Vector grad = y;
    for (std::size_t l = blocks.size(); l-- > 0;) grad = blocks[l].backward(std::move(grad));
  }
};

int main() {
  Model model;
  for (std::uint64_t l = 0; l < 3; ++l) model.blocks.emplace_back(l);
  // trainable_below stays true: the norms train, so every kept branch needs its input's gradient.
  dropbp::DropBPHandler handler{model, {.drop_rate = 0.5, .seed = 1}};
  return check(model, handler);
}
