// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The same training steps with any scalar and backend and with float on the CPU, compared.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "dropbp/dropbp.hpp"
#include "dropbp/ops/adamw.hpp"
#include "llama/model/model.hpp"
#include "support/catch.hpp"
#include "support/values.hpp"
#include "support/worst.hpp"

namespace llama {

inline LlamaConfig small_config(bool tie_embeddings) {
  LlamaConfig config;
  config.vocabulary = 31;
  config.hidden = 16;
  config.intermediate = 24;
  config.layers = 2;
  config.heads = 4;
  config.kv_heads = 2;
  config.tie_embeddings = tie_embeddings;
  return config;
}

inline Batch small_batch(std::uint64_t step) {
  Batch batch;
  batch.shape = {2, 9};
  for (std::uint64_t i = 0; i < 18; ++i) {
    batch.inputs.push_back(static_cast<std::int32_t>((7 * i + 5 * step) % 31));
    batch.labels.push_back(static_cast<std::int32_t>((11 * i + 3 * step) % 31));
  }
  batch.labels[3] = -100;
  return batch;
}

// B of the adapters starts as zero, and then A has no gradient: set B.
template <class T, class B>
void disturb_adapters(LlamaModel<T, B>& model) {
  int count = 0;
  model.for_each_tensor([&](const ops::ParameterSlice<T, B>& tensor) {
    if (tensor.name.find("lora_B") == std::string::npos) return;
    std::vector<float> values(tensor.size());
    for (float& value : values) value = 0.01f * static_cast<float>(++count % 17 - 8);
    test::set_values<B>(tensor.value, values);
  });
}

// |x - y| / |y|: the largest of any tensor, and that of all elements together.
struct Difference {
  double tensor = 0, whole = 0;
};

template <class Backend, class T>
Difference difference_of(LlamaModel<T, Backend>& device, LlamaModel<float>& cpu, bool gradients) {
  std::vector<std::vector<float>> expected;
  std::vector<std::string> names;
  cpu.for_each_tensor([&](const ops::ParameterSlice<float>& tensor) {
    const float* const from = gradients ? tensor.gradient : tensor.value;
    expected.emplace_back(from, from == nullptr ? nullptr : from + tensor.size());
    names.push_back(tensor.name);
  });
  Difference result;
  double all_differences = 0, all_norms = 0;
  std::size_t i = 0;
  device.for_each_tensor([&](const ops::ParameterSlice<T, Backend>& tensor) {
    REQUIRE(tensor.name == names[i]);
    const std::vector<float>& y = expected[i++];
    T* const from = gradients ? tensor.gradient : tensor.value;
    INFO(tensor.name);
    REQUIRE((from != nullptr) == !y.empty());  // absent on both or on neither
    const std::vector<float> x = test::values_of<Backend>(from, y.size());
    double difference = 0, norm = 0;
    for (std::size_t k = 0; k < y.size(); ++k) {
      const double d = static_cast<double>(x[k]) - static_cast<double>(y[k]);
      difference += d * d, norm += static_cast<double>(y[k]) * static_cast<double>(y[k]);
    }
    if (norm > 0) dropbp::test::keep_worst(result.tensor, std::sqrt(difference / norm));
    all_differences += difference, all_norms += norm;
  });
  result.whole = std::sqrt(all_differences / all_norms);
  return result;
}

// The largest relative difference of any step.
struct Run {
  double loss = 0;
  Difference first_gradient;  // while the weights are still equal
  Difference gradient;
  double weights = 0;  // all together, after the last step
};

// Runs the same steps on both: same plans, dropout, batches; AdamW.
template <class T, class Backend>
Run compare_runs(ops::LoraConfig lora, bool tie_embeddings, bool recompute = false) {
  constexpr std::uint64_t steps = 20;
  const LlamaConfig config = small_config(tie_embeddings);
  LlamaModel<float> cpu(config, 9, {.lora = lora, .recompute = recompute});
  LlamaModel<T, Backend> device(
      config, 9, {.lora = lora, .recompute = recompute, .fill = ops::PoolFill::nan});
  cpu.initialize(3), device.initialize(3);
  cpu.initialize_adapters(4), device.initialize_adapters(4);
  disturb_adapters(cpu), disturb_adapters(device);
  const dropbp::DropOptions options{
      .drop_rate = 0.5, .seed = 1, .trainable_below = cpu.trainable_below()};
  dropbp::DropBPHandler cpu_handler{cpu, options};
  dropbp::DropBPHandler device_handler{device, options};
  const ops::AdamWOptions adamw{.learning_rate = 1e-3};
  ops::AdamW<float> cpu_optimizer(cpu.parameters(), adamw);
  ops::AdamW<T, Backend> device_optimizer(device.parameters(), adamw);

  Run run;
  std::uint64_t compared = 0;
  for (std::uint64_t step = 0; step < steps; ++step) {
    cpu.set_moment({.seed = 1, .step = step}), device.set_moment({.seed = 1, .step = step});
    cpu_handler.begin_step(step), device_handler.begin_step(step);
    REQUIRE(cpu_handler.plan().fingerprint() == device_handler.plan().fingerprint());
    cpu.clear_gradients(), device.clear_gradients();
    const Batch batch = small_batch(step);
    const auto keep_loss = [&](double x, double y) {
      dropbp::test::keep_worst(run.loss, std::abs(x - y) / y);
    };
    if (!cpu_handler.backward_needed()) {
      keep_loss(device.loss(batch), cpu.loss(batch));
      continue;
    }
    keep_loss(device.loss_and_gradients(batch), cpu.loss_and_gradients(batch));
    const Difference gradient = difference_of(device, cpu, true);
    if (compared++ == 0) run.first_gradient = gradient;
    dropbp::test::keep_worst(run.gradient.tensor, gradient.tensor);
    dropbp::test::keep_worst(run.gradient.whole, gradient.whole);
    const double cpu_norm =
        ops::global_norm(ops::squared_gradient_norms<float>(cpu_optimizer.parameters()));
    const double norm =
        ops::global_norm(ops::squared_gradient_norms<T>(device_optimizer.parameters()));
    dropbp::test::keep_worst(run.gradient.whole, std::abs(norm - cpu_norm) / cpu_norm);
    cpu_optimizer.step(0.5), device_optimizer.step(0.5);
    CHECK(device.saved_memory().bytes_in_use() == 0);
  }
  CHECK(compared >= 10);
  run.weights = difference_of(device, cpu, false).whole;
  return run;
}

// A bfloat16 has 8 bits, an error of 2^-9 = 0.2 % per operation. Over a pass of some dozen
// operations the errors add up like a random walk: about 1 % of the gradient of all weights. Stored
// weights have 2^-9 / sqrt(3) = 0.11 %. Over frozen weights the small gradients of q and k weigh
// more. After an update only losses and weights are comparable. Each bound gives the error on the
// emulator.
struct Bfloat16Bounds {
  double loss, tensor, whole, weights;
};
inline constexpr Bfloat16Bounds bounds_of_all{
    .loss = 5e-4, .tensor = 0.03, .whole = 0.01, .weights = 4e-3};  // 1.3e-4, 0.013, 0.005, 2.0e-3
inline constexpr Bfloat16Bounds bounds_of_adapters{
    .loss = 1e-2, .tensor = 0.4, .whole = 0.15, .weights = 8e-3};  // 3.1e-3, 0.17, 0.074, 3.6e-3

inline void check_bfloat16(const Run& run, const Bfloat16Bounds& bounds) {
  CHECK(run.loss < bounds.loss);
  CHECK(run.first_gradient.whole > 1e-4);  // shows that it is bfloat16
  CHECK(run.first_gradient.tensor < bounds.tensor);
  CHECK(run.first_gradient.whole < bounds.whole);
  CHECK(run.weights < bounds.weights);
}

}  // namespace llama
