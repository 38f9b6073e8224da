// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A small diffusion U-Net: two blocks down, one in the middle, two up. A block on the way up also
// reads the output of its partner on the way down (the skip connection), and the branch of every
// block reads the embedding of the noise level:
//   y = P x + branch(x, time), where x = (h, skip) on the way up
#include <utility>
#include <vector>

#include "recipe.hpp"

Vector joined(Vector a, const Vector& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
Vector cut_off(Vector& a, std::size_t keep) {  // the reverse of joined: returns b
  Vector b(a.begin() + static_cast<std::ptrdiff_t>(keep), a.end());
  a.resize(keep);
  return b;
}
Vector half(const Vector& x) {  // mean of two neighbours
  Vector y(x.size() / 2);
  for (std::size_t i = 0; i < x.size(); ++i) y[i / 2] += x[i] / 2;
  return y;
}
Vector twice(const Vector& x) {
  Vector y(2 * x.size());
  for (std::size_t i = 0; i < y.size(); ++i) y[i] = x[i / 2];
  return y;
}
Vector scaled(Vector x, double factor) {
  for (double& one : x) one *= factor;
  return x;
}

constexpr std::size_t time_width = 3;

// f(x, time) = tanh(W x + V time), in place of norms and convolutions.
struct Convolution : Linear {
  Convolution(std::uint64_t seed, std::size_t in_width, std::size_t out_width)
      : Linear(seed, in_width + time_width, out_width) {}

  double cost() const { return static_cast<double>(in * out); }
  Vector forward(const Vector& x, Saved* saved, const Vector& time) {
    return Linear::forward(joined(x, time), saved);
  }
  // A kept one adds to the gradient of `time`.
  Vector backward(const Vector& grad_output, Saved& saved, Vector& grad_time) {
    Vector grad = Linear::backward(grad_output, saved);
    const Vector by_this = cut_off(grad, in - time_width);
    grad_time = std::move(grad_time) + by_this;
    return grad;
  }
};

struct Block {
  dropbp::DropBPLayer<Convolution> branch;
  Linear projection;
  Linear::Saved saved = {};

  Block(std::uint64_t seed, std::size_t in, std::size_t out)
      : branch(Convolution(seed, in, out)), projection(seed + 100, in, out) {}

  Vector forward(const Vector& x, const Vector& time) {
    return projection.forward(x, &saved) + branch.forward_branch(x, time);
  }
  Vector backward(const Vector& grad, Vector& grad_time) {
    const auto by_branch = branch.backward_branch(grad, grad_time);  // empty where it is dropped
    Vector grad_input = projection.backward(grad, saved);
    return by_branch ? grad_input + *by_branch : grad_input;
  }
};

struct UNet {
  Linear embedding{1, time_width, time_width};  // of the noise level
  std::vector<Block> down, up;
  dropbp::DropBPLayer<Convolution> middle{Convolution(30, 3, 3)};  // y = x + branch(x, time)
  Linear::Saved embedding_saved = {};
  bool time_has_gradient = false;
  Vector y;

  UNet() {
    down.emplace_back(10, 8, 8);
    down.emplace_back(11, 4, 6);
    up.emplace_back(20, 6 + 6, 4);
    up.emplace_back(21, 8 + 8, 8);
  }

  // In the order of the forward pass.
  void for_each_layer(auto&& visit) {
    for (Block& block : down) visit(block.branch);
    visit(middle);
    for (Block& block : up) visit(block.branch);
  }
  std::vector<Weight> weights() {
    std::vector<Weight> weights;
    const auto add = [&](Linear& linear) { append(weights, linear.weight, linear.gradient); };
    add(embedding);
    for_each_layer([&](auto& layer) { add(layer.op()); });
    for (Block& block : down) add(block.projection);
    for (Block& block : up) add(block.projection);
    return weights;
  }

  double loss() {
    const Vector time = embedding.forward({0.1, 0.7, -0.4}, &embedding_saved);
    std::vector<Vector> skips;
    y = {0.3, -0.2, 0.5, 0.1, -0.6, 0.2, 0.4, -0.1};  // a noisy sample
    for (Block& block : down) {
      skips.push_back(block.forward(y, time));
      y = half(skips.back());
    }
    y = middle.forward(y, time);
    for (Block& block : up) {
      y = block.forward(joined(twice(y), skips.back()), time);
      skips.pop_back();
    }
    double sum = 0;
    for (const double one : y) sum += one * one / 2;
    return sum;
  }

  void backward() {
    Vector grad = y, grad_time(time_width);
    std::vector<Vector> grad_skips;
    for (std::size_t l = up.size(); l-- > 0;) {
      grad = up[l].backward(grad, grad_time);
      grad_skips.push_back(cut_off(grad, grad.size() / 2));
      grad = scaled(half(grad), 2);  // of twice
    }
    grad = middle.backward(std::move(grad), grad_time);
    for (std::size_t l = down.size(); l-- > 0;) {
      // A skip connection is outside of all branches: its gradient always passes.
      grad = scaled(twice(grad), 0.5) + grad_skips.back();  // of half, and of the skip
      grad_skips.pop_back();
      grad = down[l].backward(grad, grad_time);
    }
    // Only branches read the embedding: where all are dropped it has no gradient, and the optimizer
    // leaves it alone as well.
    time_has_gradient = false;
    for_each_layer([&](const auto& layer) { time_has_gradient |= !layer.dropped(); });
    if (time_has_gradient) embedding.backward(grad_time, embedding_saved);
  }
};

int main() {
  UNet model;
  // trainable_below stays true: the projections below a branch train.
  dropbp::DropBPHandler handler{model, {.drop_rate = 0.7, .seed = 1}};
  return check(model, handler);
}
