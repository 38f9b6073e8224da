// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A residual network in std::vector<float> trained with half of its backward passes dropped.
#include <cmath>
#include <cstdio>
#include <vector>

#include <dropbp/dropbp.hpp>

using Vector = std::vector<float>;
constexpr std::size_t width = 32;

// f(x) = tanh(W x): your operation. Only the two functions and Saved matter to the library.
struct Branch {
  struct Saved {
    Vector x, f;
  };
  Vector weight = Vector(width * width), gradient = Vector(width * width);

  Vector forward(const Vector& x, Saved* saved) {
    Vector f(width);
    for (std::size_t i = 0; i < width; ++i) {
      float sum = 0;
      for (std::size_t j = 0; j < width; ++j) sum += weight[i * width + j] * x[j];
      f[i] = std::tanh(sum);
    }
    if (saved != nullptr) *saved = {x, f};  // null: a dropped branch keeps nothing
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
};

struct Model {
  std::vector<dropbp::DropBPLayer<Branch>> branches;  // y = x + branch(x)
  void for_each_layer(auto&& visit) {
    for (auto& branch : branches) visit(branch);
  }
  void for_each_gradient(auto&& visit) {
    for (auto& branch : branches) visit(branch.op().gradient);
  }
};

int main() {
  Model model;
  for (int i = 0; i < 8; ++i) model.branches.emplace_back(Branch{});
  const dropbp::CounterRandom random{1, dropbp::RandomStream::user, 0};
  std::uint64_t draw = 0;
  for (auto& branch : model.branches)
    for (float& w : branch.op().weight)
      w = 0.2f * (static_cast<float>(random(draw++) >> 40) * 0x1p-24f - 0.5f);
  Vector x(width), target(width);
  for (std::size_t i = 0; i < width; ++i)
    x[i] = std::sin(float(i)), target[i] = std::cos(2 * float(i));

  // Clears the gradients, runs one forward and one backward pass; returns the loss.
  const auto backprop = [&] {
    for (auto& branch : model.branches) branch.op().gradient.assign(width * width, 0);
    Vector y = x;
    for (auto& branch : model.branches) y = branch.forward(y);
    float loss = 0;
    Vector grad(width);
    for (std::size_t i = 0; i < width; ++i)
      grad[i] = y[i] - target[i], loss += grad[i] * grad[i] / 2;
    for (std::size_t i = model.branches.size(); i-- > 0;)
      grad = model.branches[i].backward(std::move(grad));
    return loss;
  };

  // trains_below: there is no embedding below the branches, so nobody needs the gradient of x.
  dropbp::DropBPHandler handler{model, {.drop_rate = 0.5, .seed = 42, .trains_below = false}};
  const std::uint64_t steps = 100;
  for (std::uint64_t step = 0; step < steps; ++step) {
    if (step == steps / 10) handler.allocate_by_sensitivity(backprop);
    handler.begin_step(step);  // draws what this step drops, before the forward pass
    const float loss = backprop();
    for (std::size_t i = 0; i < handler.size(); ++i) {
      if (!handler.has_gradient(i)) continue;  // absent is not zero: leave the branch alone
      Branch& branch = model.branches[i].op();
      for (std::size_t j = 0; j < width * width; ++j)
        branch.weight[j] -= 0.002f * branch.gradient[j];
    }
    if (step % 20 == 0 || step + 1 == steps)
      std::printf("step %3d  loss %.4f\n", int(step), double(loss));
  }
  std::fputs(to_text(handler.report()).c_str(), stdout);
}
