// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Trains a residual network in std::vector<float> and drops half of its backward passes.
#include <cmath>
#include <cstdio>
#include <vector>

#include <dropbp/dropbp.hpp>

using Vector = std::vector<float>;
constexpr std::size_t width = 32;

// f(x) = tanh(W x): your operation. The library calls forward and backward and stores Saved.
struct Branch {
  struct Saved {
    Vector x, f;
  };
  Vector weight = Vector(width * width), gradient = Vector(width * width);

  explicit Branch(std::uint64_t seed) {
    const dropbp::CounterRandom random{seed, dropbp::RandomStream::user, 0};
    for (std::size_t i = 0; i < weight.size(); ++i)
      weight[i] = 0.2f * (static_cast<float>(random(i) >> 40) * 0x1p-24f - 0.5f);
  }

  Vector forward(const Vector& x, Saved* saved) {
    Vector f(width);
    for (std::size_t i = 0; i < width; ++i) {
      float sum = 0;
      for (std::size_t j = 0; j < width; ++j) sum += weight[i * width + j] * x[j];
      f[i] = std::tanh(sum);
    }
    if (saved != nullptr) *saved = {x, f};  // null: a dropped branch saves nothing
    return f;
  }
  Vector backward(const Vector& grad_output, Saved& saved) {
    Vector grad_input(width);
    for (std::size_t i = 0; i < width; ++i) {
      const float grad_sum = grad_output[i] * (1 - saved.f[i] * saved.f[i]);
      for (std::size_t j = 0; j < width; ++j) {
        gradient[i * width + j] += grad_sum * saved.x[j];
        grad_input[j] += grad_sum * weight[i * width + j];
      }
    }
    return grad_input;
  }

  void descend(float learning_rate) {
    for (std::size_t i = 0; i < weight.size(); ++i) weight[i] -= learning_rate * gradient[i];
    gradient.assign(weight.size(), 0);
  }
};

struct Model {
  std::vector<dropbp::DropBPLayer<Branch>> layers;  // each: y = x + branch(x)
  void for_each_layer(auto&& visit) {
    for (auto& layer : layers) visit(layer);
  }
};

int main() {
  Model model;
  Vector x(width), grad(width);
  for (std::uint64_t i = 0; i < 8; ++i) model.layers.emplace_back(Branch(i));
  for (std::size_t i = 0; i < width; ++i) x[i] = std::sin(float(i));

  // trainable_below: no embedding lies below the branches, so nothing needs the gradient of x.
  dropbp::DropBPHandler handler{model, {.drop_rate = 0.5, .seed = 42, .trainable_below = false}};
  for (std::uint64_t step = 0; step < 100; ++step) {
    handler.begin_step(step);  // before the forward pass: draws the branches to drop
    Vector y = x;
    for (auto& layer : model.layers) y = layer.forward(y);
    float loss = 0;
    for (std::size_t i = 0; i < width; ++i) {
      grad[i] = y[i] - std::cos(2 * float(i));  // y - target: gradient of the loss
      loss += grad[i] * grad[i] / 2;
    }
    for (std::size_t i = handler.size(); i-- > 0;) grad = model.layers[i].backward(std::move(grad));
    for (std::size_t i = 0; i < handler.size(); ++i)
      if (handler.has_gradient(i)) model.layers[i].op().descend(0.002f);  // dropped: no update
    if (step % 20 == 19) std::printf("step %3d  loss %.4f\n", int(step + 1), double(loss));
  }
  std::fputs(to_text(handler.report()).c_str(), stdout);
}
