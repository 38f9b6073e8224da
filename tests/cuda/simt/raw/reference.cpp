// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// examples/cuda/llmc_style.cu, compiled as C++17, on the emulated device, beside the same training
// with plain loops in double.
#include <utility>

#define main example_main
#include "examples/cuda/llmc_style.cu"
#undef main

namespace {

struct Reference {
  std::vector<double> parameters, m, v;
  std::vector<std::uint64_t> updates;
};

double reference_step(Reference& r, const dropbp_plan* plan) {
  const auto w = [&](std::size_t l) { return l * layer_parameters; };
  std::vector<double> x(elements), target(elements);
  for (std::size_t i = 0; i < elements; ++i) {
    x[i] = static_cast<double>(number(i));
    target[i] = static_cast<double>(1.5f * number(i) + 0.2f);
  }
  std::vector<std::vector<double>> inputs;
  const auto statistics = [&](const std::vector<double>& in, std::size_t row) {
    double mean = 0, variance = 0;
    for (std::size_t c = 0; c < columns; ++c) mean += in[row * columns + c] / columns;
    for (std::size_t c = 0; c < columns; ++c)
      variance += std::pow(in[row * columns + c] - mean, 2) / columns;
    return std::pair(mean, 1 / std::sqrt(variance + 1e-5));
  };
  for (std::size_t l = 0; l < layers; ++l) {
    inputs.push_back(x);
    for (std::size_t row = 0; row < rows; ++row) {
      const auto [mean, rstd] = statistics(inputs[l], row);
      for (std::size_t c = 0; c < columns; ++c)
        x[row * columns + c] +=
            (inputs[l][row * columns + c] - mean) * rstd * r.parameters[w(l) + c] +
            r.parameters[w(l) + columns + c];
    }
  }
  double loss = 0, norm = 0;
  std::vector<double> g(elements), gradients(r.parameters.size());
  for (std::size_t i = 0; i < elements; ++i) {
    g[i] = (x[i] - target[i]) / elements;
    loss += 0.5 * g[i] * (x[i] - target[i]);
  }
  for (std::size_t l = layers; l-- > 0;) {
    if (dropbp_plan_dropped(plan, l) != 0) continue;
    for (std::size_t row = 0; row < rows; ++row) {
      const auto [mean, rstd] = statistics(inputs[l], row);
      double sum = 0, dot = 0;
      std::vector<double> normed(columns), down(columns);
      for (std::size_t c = 0; c < columns; ++c) {
        const double dy = g[row * columns + c];
        normed[c] = (inputs[l][row * columns + c] - mean) * rstd;
        down[c] = dy * r.parameters[w(l) + c];
        gradients[w(l) + c] += dy * normed[c];
        gradients[w(l) + columns + c] += dy;
        sum += down[c] / columns;
        dot += down[c] * normed[c] / columns;
      }
      for (std::size_t c = 0; c < columns; ++c)
        g[row * columns + c] += rstd * (down[c] - sum - normed[c] * dot);
    }
    for (std::size_t i = w(l); i < w(l + 1); ++i) norm += gradients[i] * gradients[i];
  }
  const double factor = 1 / std::fmax(1.0, std::sqrt(norm));
  for (std::size_t l = 0; l < layers; ++l) {
    if (dropbp_plan_dropped(plan, l) != 0) continue;
    const auto t = static_cast<double>(++r.updates[l]);
    for (std::size_t i = w(l); i < w(l + 1); ++i) {
      const double d = gradients[i] * factor;
      r.m[i] = 0.9 * r.m[i] + 0.1 * d;
      r.v[i] = 0.95 * r.v[i] + 0.05 * d * d;
      r.parameters[i] -= 1e-2 * (r.m[i] / (1 - std::pow(0.9, t))) /
                         (std::sqrt(r.v[i] / (1 - std::pow(0.95, t))) + 1e-8);
    }
  }
  return loss;
}

// The largest relative difference of a loss.
template <class T>
double worst_difference(double drop_rate) {
  Trainer<T> trainer(drop_rate, nullptr);
  dropbp_options options = dropbp_default_options();
  options.drop_rate = drop_rate;
  options.trainable_below = 0;
  const std::vector<double> costs(layers, 1.0);
  dropbp_schedule* const schedule = dropbp_schedule_create(layers, costs.data(), &options);
  dropbp_plan* const plan = dropbp_plan_create();
  const std::size_t count = layers * layer_parameters;
  Reference reference{std::vector<double>(count), std::vector<double>(count),
                      std::vector<double>(count), std::vector<std::uint64_t>(layers)};
  for (std::size_t i = 0; i < count; ++i)
    reference.parameters[i] =
        i % layer_parameters < columns ? static_cast<double>(0.3f + 0.1f * number(i)) : 0.0;
  double worst = 0;
  std::size_t dropped = 0;
  for (std::uint64_t step = 0; step < 12; ++step) {
    dropbp_check(dropbp_plan_draw(plan, schedule, step, 0));
    for (std::size_t l = 0; l < layers; ++l) dropped += dropbp_plan_dropped(plan, l) != 0;
    const double wanted = reference_step(reference, plan);
    worst = std::fmax(worst, std::fabs(static_cast<double>(trainer.step(step)) / wanted - 1));
  }
  dropbp_plan_destroy(plan);
  dropbp_schedule_destroy(schedule);
  if ((dropped > 0) != (drop_rate > 0)) return 1e9;  // the test would say nothing
  return worst;
}

}  // namespace

static_assert(__cplusplus < 202002L, "the example is for trainers in C++17");

int main() {
  bool good = example_main() == 0;
  const struct {
    const char* name;
    double difference, most;
  } cases[] = {{"float", worst_difference<float>(0.0), 2e-6},
               {"float, half dropped", worst_difference<float>(0.5), 2e-6},
               {"bfloat16, half dropped", worst_difference<__nv_bfloat16>(0.5), 0.015}};
  for (const auto& one : cases) {
    std::printf("%s: the losses differ by %.2g at most (limit %.2g)\n", one.name, one.difference,
                one.most);
    good = good && one.difference <= one.most;
  }
  return good ? 0 : 1;
}
