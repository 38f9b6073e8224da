// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A trainer with background threads: one prepares the next step (data and plan), one runs the
// optimizer of the last. The plan is a value that travels with its step.
#include <cmath>
#include <cstdio>
#include <future>
#include <utility>
#include <vector>

#include <dropbp/dropbp.hpp>
#include <dropbp/parameter_ranges.hpp>

constexpr std::size_t branches = 8, width = 16;
constexpr std::uint64_t steps = 50;
using Floats = std::vector<float>;

struct Step {
  dropbp::DropPlan plan;
  Floats input;
};

struct Trainer {
  dropbp::DropSchedule<> schedule{std::vector<double>(branches, 1.0), {.drop_rate = 0.5}};
  dropbp::ParameterRanges ranges{branches, branches* width};
  Floats weights = Floats(branches * width, 0.1f), moments = Floats(branches * width);

  Trainer() { ranges.add({.branch = 0, .offset = 0, .count = width, .layers = branches}); }

  // Reads the schedule only: any thread may call it, at any time between two changes of the rates.
  Step prepare(std::uint64_t step) const {
    Step next{schedule.plan(step), Floats(width)};
    for (std::size_t i = 0; i < width; ++i) next.input[i] = std::sin(float(i + step));
    return next;
  }

  // Stream + tanh(w * stream), element by element; the gradients of the kept branches.
  Floats gradients(const Step& step) const {
    std::vector<Floats> inputs, outputs;
    Floats stream = step.input, result(weights.size());
    for (std::size_t b = 0; b < branches; ++b) {
      inputs.push_back(stream), outputs.emplace_back(width);
      for (std::size_t i = 0; i < width; ++i)
        stream[i] += outputs[b][i] = std::tanh(weights[b * width + i] * stream[i]);
    }
    for (std::size_t i = 0; i < width; ++i) stream[i] -= 2 * step.input[i];  // now the gradient
    for (std::size_t b = branches; b-- > 0;) {
      if (step.plan.dropped(b)) continue;
      for (std::size_t i = 0; i < width; ++i) {
        const float grad = stream[i] * (1 - outputs[b][i] * outputs[b][i]);
        result[b * width + i] = grad * inputs[b][i];
        stream[i] += grad * weights[b * width + i];
      }
    }
    return result;
  }

  // Needs the plan of the step that the gradients belong to, whichever is being prepared now.
  void update(const dropbp::DropPlan& plan, const Floats& grads) {
    for (const dropbp::TrainedRange& range : ranges.end_step(plan))
      for (std::size_t i = range.offset; i < range.offset + range.count; ++i) {
        moments[i] = 0.9f * moments[i] + grads[i];
        weights[i] -= 0.01f * moments[i];
      }
  }
};

int main() {
  Trainer alone, threaded;
  for (std::uint64_t step = 0; step < steps; ++step) {
    const Step now = alone.prepare(step);
    alone.update(now.plan, alone.gradients(now));
  }

  std::future<void> update = std::async(std::launch::deferred, [] {});
  std::future<Step> next = std::async(std::launch::async, [&] { return threaded.prepare(0); });
  for (std::uint64_t step = 0; step < steps; ++step) {
    const Step now = next.get();
    next = std::async(std::launch::async, [&, step] { return threaded.prepare(step + 1); });
    update.get();  // the weights are those of the last step
    update = std::async(std::launch::async, [&, plan = now.plan, grads = threaded.gradients(now)] {
      threaded.update(plan, grads);
    });
  }
  update.get();
  const bool same = alone.weights == threaded.weights && alone.moments == threaded.moments;
  std::printf("with and without threads the weights are %s\n", same ? "the same" : "different");
  return same ? 0 : 1;
}
