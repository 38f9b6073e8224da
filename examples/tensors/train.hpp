// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Trains a small residual network with any tensor type, and compares the loss with the same
// training over plain arrays.
//
// A `Library` is the code that a trainer has around its tensors:
//   using Tensor = ...
//   static Tensor make(const std::vector<float>& values)
//   static std::vector<float> read(const Tensor&)
//   static Tensor combine(Binary f, const Tensor& a, const Tensor& b)
//       f(a[i], b[i]) for all i, in a new tensor
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <utility>
#include <vector>

#include <dropbp/dropbp.hpp>

using Binary = float (*)(float, float);

constexpr std::size_t width = 12, branch_count = 6;
constexpr std::uint64_t steps = 60;

constexpr Binary product = [](float a, float b) { return a * b; };
constexpr Binary sum = [](float a, float b) { return a + b; };
constexpr Binary first = [](float a, float) { return a; };
constexpr Binary branch_value = [](float w, float x) { return std::tanh(w * x); };
constexpr Binary through_tanh = [](float grad, float f) { return grad * (1 - f * f); };
constexpr Binary descend = [](float w, float grad) { return w - 0.05f * grad; };

inline std::vector<float> initial_weight(std::size_t branch) {
  std::vector<float> w(width);
  for (std::size_t i = 0; i < width; ++i) w[i] = 0.3f * std::sin(float(7 * branch + i));
  return w;
}
inline std::vector<float> input() {
  std::vector<float> x(width);
  for (std::size_t i = 0; i < width; ++i) x[i] = std::cos(float(i));
  return x;
}
constexpr Binary difference = [](float y, float x) {
  return y - 2 * x;
};  // the network learns to double its input

// f(x) = tanh(w * x), element by element
template <class Library>
struct Branch {
  using Tensor = typename Library::Tensor;
  struct Saved {
    Tensor x, f;
  };
  Tensor weight, gradient;

  Tensor forward(const Tensor& x, Saved* saved) {
    Tensor f = Library::combine(branch_value, weight, x);
    if (saved != nullptr) *saved = {Library::combine(first, x, x), Library::combine(first, f, f)};
    return f;
  }
  Tensor backward(const Tensor& grad_output, Saved& saved) {
    const Tensor grad_sum = Library::combine(through_tanh, grad_output, saved.f);
    gradient = Library::combine(sum, gradient, Library::combine(product, grad_sum, saved.x));
    return Library::combine(product, grad_sum, weight);
  }
};

template <class Library>
struct Model {
  std::vector<dropbp::DropBPLayer<Branch<Library>>> branches;

  void for_each_layer(auto&& visit) {
    for (auto& branch : branches) visit(branch);
  }
  void for_each_gradient(auto&& visit)
    requires dropbp::NormedTensor<typename Library::Tensor>
  {
    for (auto& branch : branches) visit(branch.op().gradient);
  }
};

// Runs the same training over plain arrays. Returns the loss of the last step.
inline double loss_by_hand(const std::vector<dropbp::DropPlan>& plans) {
  std::vector<std::vector<float>> weights;
  for (std::size_t b = 0; b < branch_count; ++b) weights.push_back(initial_weight(b));
  double loss = 0;
  for (const dropbp::DropPlan& plan : plans) {
    loss = 0;
    for (std::size_t i = 0; i < width; ++i) {
      float stream[branch_count + 1] = {input()[i]};
      for (std::size_t b = 0; b < branch_count; ++b)
        stream[b + 1] = stream[b] + std::tanh(weights[b][i] * stream[b]);
      float grad = stream[branch_count] - 2 * stream[0];
      loss += double(grad) * double(grad) / 2;
      for (std::size_t b = branch_count; b-- > 0;) {
        if (plan.dropped(b)) continue;
        const float f = std::tanh(weights[b][i] * stream[b]), grad_sum = grad * (1 - f * f);
        grad += grad_sum * weights[b][i];
        weights[b][i] -= 0.05f * grad_sum * stream[b];
      }
    }
  }
  return loss;
}

// Returns the exit code of the program: 0 if the loss has fallen and equals that of the plain
// arrays.
template <class Library>
int train(const char* name) {
  using Tensor = typename Library::Tensor;
  Model<Library> model;
  const Tensor x = Library::make(input());
  for (std::size_t b = 0; b < branch_count; ++b)
    model.branches.emplace_back(Branch<Library>{Library::make(initial_weight(b)),
                                                Library::make(std::vector<float>(width))});

  const auto backprop = [&] {  // returns the loss
    for (auto& branch : model.branches)
      branch.op().gradient = Library::make(std::vector<float>(width));
    Tensor y = Library::combine(first, x, x);
    for (auto& branch : model.branches) y = branch.forward(std::as_const(y));
    Tensor grad = Library::combine(difference, y, x);
    double loss = 0;
    for (const float one : Library::read(grad)) loss += double(one) * double(one) / 2;
    for (std::size_t b = branch_count; b-- > 0;) grad = model.branches[b].backward(std::move(grad));
    return loss;
  };

  dropbp::DropBPHandler handler{model, {.drop_rate = 0.5, .seed = 42, .trainable_below = false}};
  std::vector<dropbp::DropPlan> plans;
  double first_loss = 0, loss = 0;
  for (std::uint64_t step = 0; step < steps; ++step) {
    if constexpr (dropbp::NormedTensor<Tensor>)
      if (step == steps / 10) handler.allocate_by_sensitivity(backprop);
    handler.begin_step(step);
    plans.push_back(handler.plan());
    loss = backprop();
    if (step == 0) first_loss = loss;
    for (std::size_t b = 0; b < branch_count; ++b) {
      if (!handler.has_gradient(b)) continue;
      Branch<Library>& branch = model.branches[b].op();
      branch.weight = Library::combine(descend, branch.weight, branch.gradient);
    }
  }
  const double expected = loss_by_hand(plans);
  const bool good = loss < first_loss / 10 && std::abs(loss - expected) < 1e-3 * expected;
  std::printf("%s: loss %.5f, then %.5f (by hand %.5f)%s\n", name, first_loss, loss, expected,
              good ? "" : ": WRONG");
  return good ? 0 : 1;
}
