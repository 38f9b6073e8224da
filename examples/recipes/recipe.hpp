// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What the recipes share: an operation, and the check that the gradients of a step are those of a
// loss in which the outputs of its dropped branches are constants.
#pragma once

#include <cmath>
#include <cstdio>
#include <vector>

#include <dropbp/dropbp.hpp>

using Vector = std::vector<double>;
constexpr std::size_t width = 5;

inline Vector operator+(Vector a, const Vector& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

// y = tanh(W x), of any two sizes.
struct Linear {
  struct Saved {
    Vector x, y;
  };
  std::size_t in, out;
  Vector weight, gradient;
  Vector last = {};      // what forward returned
  Vector constant = {};  // what it returns instead, while the check takes the branch as a constant

  explicit Linear(std::uint64_t seed, std::size_t in_width = width, std::size_t out_width = width)
      : in(in_width), out(out_width), weight(in * out), gradient(in * out) {
    const dropbp::CounterRandom random{seed, dropbp::RandomStream::user, 0};
    for (std::size_t i = 0; i < weight.size(); ++i)
      weight[i] = 0.8 * (static_cast<double>(random(i) >> 11) * 0x1p-53 - 0.5);
  }

  Vector forward(const Vector& x, Saved* saved) {
    if (!constant.empty()) return constant;
    Vector y(out);
    for (std::size_t o = 0; o < out; ++o) {
      for (std::size_t i = 0; i < in; ++i) y[o] += weight[o * in + i] * x[i];
      y[o] = std::tanh(y[o]);
    }
    last = y;
    if (saved != nullptr) *saved = {x, y};
    return y;
  }
  Vector backward(const Vector& grad_output, Saved& saved) {
    Vector grad_input(in);
    for (std::size_t o = 0; o < out; ++o) {
      const double grad = grad_output[o] * (1 - saved.y[o] * saved.y[o]);
      for (std::size_t i = 0; i < in; ++i) {
        gradient[o * in + i] += grad * saved.x[i];
        grad_input[i] += grad * weight[o * in + i];
      }
    }
    return grad_input;
  }
};

// A weight with its gradient.
struct Weight {
  double *value, *gradient;
};
inline void append(std::vector<Weight>& weights, Vector& values, Vector& gradients) {
  for (std::size_t i = 0; i < values.size(); ++i) weights.push_back({&values[i], &gradients[i]});
}

// Runs some steps of a model with `for_each_layer`, `weights()` (of all its parameters), `loss()`
// and `backward()`. Returns the largest difference between a gradient and the slope of the loss.
template <class Model, class Handler>
double worst_difference(Model& model, Handler& handler) {
  double worst = 0;
  for (std::uint64_t step = 0; step < 12; ++step) {
    handler.begin_step(step);
    for (const Weight& weight : model.weights()) *weight.gradient = 0;
    model.loss();
    model.backward();
    handler.begin_evaluation();
    std::size_t branch = 0;
    model.for_each_layer([&](auto& layer) {
      if (handler.plan().dropped(branch++)) layer.op().constant = layer.op().last;
    });
    for (const Weight& weight : model.weights()) {
      const double value = *weight.value, distance = 1e-5;
      *weight.value = value + distance;
      const double above = model.loss();
      *weight.value = value - distance;
      const double slope = (above - model.loss()) / (2 * distance);
      *weight.value = value;
      worst = std::fmax(worst, std::fabs(slope - *weight.gradient));
    }
    model.for_each_layer([&](auto& layer) { layer.op().constant.clear(); });
  }
  return worst;
}

// Says what the check found, and returns the exit code.
template <class Model, class Handler>
int check(Model& model, Handler& handler) {
  const double worst = worst_difference(model, handler);
  std::printf("%zu branches: the gradients differ from those of finite differences by %.1e\n",
              handler.size(), worst);
  std::fputs(to_text(handler.report()).c_str(), stdout);
  return worst < 1e-8 ? 0 : 1;
}
