// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A hand-written training loop over float arrays. It uses dropbp only to decide which branches to
// skip in the backward pass: there is no tensor type and no layer.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include <dropbp/dropbp.hpp>
#include <dropbp/parameter_ranges.hpp>

constexpr std::size_t width = 32, branches = 8;

// f = tanh(w * x), element by element. The loop saves f and x, the residual stream before the
// branch.
void branch_forward(const float* w, const float* x, float* f) {
  for (std::size_t i = 0; i < width; ++i) f[i] = std::tanh(w[i] * x[i]);
}

// Adds to grad_w. Adds to grad_x too, unless it is null.
void branch_backward(const float* w, const float* x, const float* f, const float* grad_f,
                     float* grad_w, float* grad_x) {
  for (std::size_t i = 0; i < width; ++i) {
    const float grad_sum = grad_f[i] * (1 - f[i] * f[i]);
    grad_w[i] += grad_sum * x[i];
    if (grad_x != nullptr) grad_x[i] += grad_sum * w[i];
  }
}

// One function, as the loop is in the trainers that this example is for.
int main() {
  std::vector<float> weights(branches * width, 0.1f), gradients(branches * width);
  std::vector<float> arena(branches * 2 * width), scratch(width), stream(width), grad(width),
      grad_branch(width);
  const std::vector<double> costs(branches, 1.0);  // equal costs

  dropbp::DropSchedule schedule{costs, {.drop_rate = 0.5, .seed = 42, .trainable_below = false}};
  dropbp::ParameterRanges ranges{branches, weights.size()};  // the array is branches x width
  ranges.add({.branch = 0, .offset = 0, .count = width, .layers = branches});
  for (std::uint64_t step = 0; step < 60; ++step) {
    const dropbp::DropPlan plan = schedule.plan(step);  // a pure function of the step

    for (std::size_t i = 0; i < width; ++i) stream[i] = std::sin(float(i + 1));
    for (std::size_t l = 0; l < branches; ++l) {
      float* saved = plan.kept(l) ? &arena[plan.slot(l) * 2 * width] : nullptr;
      float* f =
          saved != nullptr ? saved + width : scratch.data();  // a dropped branch saves nothing
      if (saved != nullptr) std::copy(stream.begin(), stream.end(), saved);
      branch_forward(&weights[l * width], stream.data(), f);
      for (std::size_t i = 0; i < width; ++i) stream[i] += f[i];
    }

    float loss = 0;
    for (std::size_t i = 0; i < width; ++i) {
      grad[i] = stream[i] - 2 * std::sin(float(i + 1));
      loss += grad[i] * grad[i] / 2;
    }
    if (step % 20 == 0 || step == 59)
      std::printf("step %2d  loss %.5f  kept %zu\n", int(step), double(loss), plan.kept_count());

    std::fill(gradients.begin(), gradients.end(), 0.0f);
    for (std::size_t l = branches; l-- > 0;) {
      if (plan.dropped(l)) continue;  // the residual path passes the gradient on unchanged
      const float* saved = &arena[plan.slot(l) * 2 * width];
      grad_branch = grad;
      branch_backward(&weights[l * width], saved, saved + width, grad_branch.data(),
                      &gradients[l * width], plan.input_gradient_needed(l) ? grad.data() : nullptr);
    }
    // What a dropped branch owns has no gradient: no update, no momentum, no decay, no step count.
    for (const dropbp::TrainedRange& range : ranges.end_step(plan))
      for (std::size_t i = range.offset; i < range.offset + range.count; ++i)
        weights[i] -= 0.05f * gradients[i];
  }
}
