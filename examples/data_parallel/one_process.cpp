// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A hand-written loop over flat arrays. many_processes.cpp is the same for several processes.
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include <dropbp/dropbp.hpp>
#include <dropbp/parameter_ranges.hpp>

constexpr std::size_t layers = 12, width = 64, batch = 16;  // rows of a step
using Row = std::array<float, width>;
using Rows = std::vector<std::array<Row, layers + 1>>;  // each with the input of every layer

// A branch: x += w * tanh(x), element by element.
void forward(const float* w, const Row& x, Row& y) {
  for (std::size_t i = 0; i < width; ++i) y[i] = x[i] + w[i] * std::tanh(x[i]);
}

void backward(const float* w, const Row& x, Row& grad, float* grad_w) {
  for (std::size_t i = 0; i < width; ++i) {
    const float t = std::tanh(x[i]);
    grad_w[i] += grad[i] * t;
    grad[i] *= 1 + w[i] * (1 - t * t);
  }
}

// Sets the gradient of the row's output. Returns the row's share of the loss, a mean over `rows`.
double loss_of(const std::array<Row, layers + 1>& x, std::size_t rows, Row& grad) {
  double loss = 0.0;
  for (std::size_t i = 0; i < width; ++i) {
    const float wrong = x[layers][i] - 3 * std::sin(x[0][i]);
    loss += double(wrong) * double(wrong) / double(rows * width);
    grad[i] = 2 * wrong / float(rows * width);
  }
  return loss;
}

int train() {
  std::vector<float> weights(layers * width, 0.01f), gradients(weights.size());
  dropbp::ParameterRanges ranges{layers, weights.size()};
  ranges.add({.branch = 0, .offset = 0, .count = width, .layers = layers});
  const dropbp::DropSchedule schedule{std::vector<double>(layers, 1.0), {.seed = 1}};

  const std::size_t rows = batch, first = 0;
  Rows x(rows);
  std::vector<Row> grad(rows);
  for (std::uint64_t step = 0; step < 100; ++step) {
    const dropbp::CounterRandom random{1, dropbp::RandomStream::user, step};
    const dropbp::DropPlan plan = schedule.plan(step);
    double loss = 0.0;
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t i = 0; i < width; ++i)
        x[r][0][i] = float(random((first + r) * width + i) >> 40) * 0x1p-23f - 1;
      for (std::size_t l = 0; l < layers; ++l) forward(&weights[l * width], x[r][l], x[r][l + 1]);
      loss += loss_of(x[r], rows, grad[r]);
    }
    for (float& g : gradients) g = 0;
    for (std::size_t l = layers; l-- > 0;) {
      for (std::size_t r = 0; r < rows && plan.kept(l); ++r)
        backward(&weights[l * width], x[r][l], grad[r], &gradients[l * width]);
    }
    for (const dropbp::TrainedRange& range : ranges.end_step(plan))
      for (std::size_t i = range.offset; i < range.offset + range.count; ++i)
        weights[i] -= gradients[i];
    if (step % 20 == 0) std::printf("step %2u  loss %.4f\n", unsigned(step), loss);
  }
  return 0;
}

int main() { return train(); }
