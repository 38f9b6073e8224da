// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Compares whole models and training runs on a device with the CPU.
#include <cmath>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "cuda/gpu/llama_model.hpp"
#include "dropbp/ops/adamw.hpp"
#include "support/catch.hpp"
#include "support/values.hpp"
#include "support/worst.hpp"

namespace {

using namespace llama;
using test::Backend;

LlamaConfig small_config(bool tie_embeddings) {
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

Batch small_batch(std::uint64_t step) {
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

template <class T>
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
template <class T>
Run compare(ops::LoraConfig lora, bool tie_embeddings, bool recompute = false) {
  constexpr std::uint64_t steps = 20;
  const LlamaConfig config = small_config(tie_embeddings);
  LlamaModel<float> cpu(config, 9, {.lora = lora, .recompute = recompute});
  LlamaModel<T, Backend> device(config, 9,
                                {.lora = lora, .recompute = recompute, .fill = ops::PoolFill::nan});
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
    cpu.set_micro_step({.seed = 1, .step = step}), device.set_micro_step({.seed = 1, .step = step});
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

}  // namespace

// Errors on the emulator, where the order of a product's sum differs from the CPU's, over 8
// initialisations: losses 9e-8; first gradient 2e-5 (in q and k of adapters, whose gradients are
// small differences while attention is nearly uniform); any gradient 3e-4 (AdamW divides by the
// root of the second moment, so small gradients make steps as large as others); weights 1.5e-7.
TEST_CASE(
    "device: 20 steps in float agree with the CPU for all weights, tied embeddings, recomputation, "
    "LoRA and QLoRA") {
  const auto check = [](const Run& run) {
    CHECK(run.loss < 1e-6);
    CHECK(run.first_gradient.tensor < 1e-4);
    CHECK(run.gradient.tensor < 2e-3);
    CHECK(run.weights < 1e-6);
  };
  SECTION("all weights") { check(compare<float>({}, false)); }
  SECTION("tied embeddings") { check(compare<float>({}, true)); }
  SECTION("recomputed") { check(compare<float>({}, true, true)); }
  SECTION("LoRA with dropout") {
    check(compare<float>(
        {.rank = 2, .dropout = 0.25, .micro_step = std::make_shared<ops::MicroStepId>()}, false));
  }
  SECTION("LoRA on some linear maps") {
    check(compare<float>({.rank = 3, .targets = {"q_proj", "down_proj"}}, false));
  }
  SECTION("QLoRA") { check(compare<float>({.rank = 2, .quantize = true}, false)); }
}

// A bfloat16 has 8 bits, an error of 2^-9 = 0.2 % per operation. Over a pass of some dozen
// operations the errors add up like a random walk: about 1 % of the gradient of all weights. Stored
// weights have 2^-9 / sqrt(3) = 0.11 %. Over frozen weights the small gradients of q and k weigh
// more. After an update only losses and weights are comparable. Each bound gives the error on the
// emulator.
TEST_CASE("device: 20 steps in bfloat16 agree with the CPU in float within bfloat16's rounding") {
  struct Bounds {
    double loss, tensor, whole, weights;
  };
  const auto check = [](const Run& run, Bounds bounds) {
    CHECK(run.loss < bounds.loss);
    CHECK(run.first_gradient.whole > 1e-4);  // shows that it is bfloat16
    CHECK(run.first_gradient.tensor < bounds.tensor);
    CHECK(run.first_gradient.whole < bounds.whole);
    CHECK(run.weights < bounds.weights);
  };
  const Bounds all{.loss = 5e-4,
                   .tensor = 0.03,
                   .whole = 0.01,
                   .weights = 4e-3};  // on the emulator: 1.3e-4, 0.013, 0.005, 2.0e-3
  const Bounds adapters{.loss = 1e-2,
                        .tensor = 0.4,
                        .whole = 0.15,
                        .weights = 8e-3};  // on the emulator: 3.1e-3, 0.17, 0.074, 3.6e-3
  SECTION("all weights") { check(compare<dropbp::BFloat16>({}, true), all); }
  SECTION("LoRA") { check(compare<dropbp::BFloat16>({.rank = 2}, false), adapters); }
  SECTION("QLoRA") {
    check(compare<dropbp::BFloat16>({.rank = 2, .quantize = true}, false), adapters);
  }
}

TEST_CASE("device: two runs give the same bits") {
  const auto train = [] {
    LlamaModel<float, Backend> model(small_config(true), 9, {});
    model.initialize(7);
    dropbp::DropBPHandler handler{model, {.drop_rate = 0.5, .seed = 2}};
    ops::AdamW<float, Backend> optimizer(model.parameters());
    std::vector<float> values;
    for (std::uint64_t step = 0; step < 2; ++step) {
      handler.begin_step(step);
      model.clear_gradients();
      values.push_back(static_cast<float>(model.loss_and_gradients(small_batch(step))));
      optimizer.step();
    }
    model.for_each_tensor([&](const auto& tensor) {
      const std::vector<float> part = test::values_of<Backend>(tensor.value, tensor.size());
      values.insert(values.end(), part.begin(), part.end());
    });
    return values;
  };
  CHECK(train() == train());
}

TEST_CASE(
    "device: micro-steps with different numbers of labels add up to the gradient of one batch") {
  LlamaModel<float> cpu(small_config(true), 9, {});
  LlamaModel<float, Backend> device(small_config(true), 9, {.fill = ops::PoolFill::nan});
  cpu.initialize(5), device.initialize(5);
  Batch whole = small_batch(0);  // 9 labels in one sequence, 2 in the other
  for (std::size_t i = 0; i < 9; ++i) whole.labels[i] = i < 2 ? whole.labels[i] : -100;
  const auto sequence = [&](std::ptrdiff_t number) {
    const auto cut = [&](const std::vector<std::int32_t>& ids) {
      return std::vector<std::int32_t>(ids.begin() + 9 * number, ids.begin() + 9 * (number + 1));
    };
    return Batch{
        .shape = {1, 9}, .inputs = cut(whole.inputs), .labels = cut(whole.labels), .divisor = 11.0};
  };
  dropbp::DropBPHandler cpu_handler{cpu, {.drop_rate = 0.0}};
  dropbp::DropBPHandler device_handler{device, {.drop_rate = 0.0}};
  cpu_handler.begin_step(std::uint64_t{0}), device_handler.begin_step(std::uint64_t{0});
  const double wanted = cpu.loss_and_gradients(whole);
  double loss = device.loss_and_gradients(sequence(0));
  device_handler.begin_micro_step(1);
  loss += device.loss_and_gradients(sequence(1));
  CHECK(std::abs(loss - wanted) <= 1e-5 * wanted);
  CHECK(difference_of(device, cpu, true).whole <= 1e-5);
}

TEST_CASE("device: measured and running sensitivities agree with the CPU") {
  LlamaModel<float> cpu(small_config(true), 9, {});
  LlamaModel<float, Backend> device(small_config(true), 9, {});
  cpu.initialize(5), device.initialize(5);
  const Batch batch = small_batch(0);
  const dropbp::DropOptions options{.drop_rate = 0.5, .seed = 1};
  dropbp::DropBPHandler cpu_handler{cpu, options};
  dropbp::DropBPHandler device_handler{device, options};
  const auto check = [](const std::vector<double>& x, const std::vector<double>& y) {
    REQUIRE(x.size() == y.size());
    for (std::size_t i = 0; i < x.size(); ++i)
      CHECK(std::abs(x[i] - y[i]) <= 1e-4 * std::abs(y[i]));
  };
  BranchwisePass<float> cpu_pass(cpu, batch);
  BranchwisePass<float, Backend> device_pass(device, batch);
  check(device_handler.measure_sensitivities_branchwise(device_pass,
                                                        dropbp::GradientNormSensitivity{}),
        cpu_handler.measure_sensitivities_branchwise(cpu_pass, dropbp::GradientNormSensitivity{}));
  check(device_handler.measure_sensitivities_branchwise(device_pass, dropbp::GradientSensitivity{}),
        cpu_handler.measure_sensitivities_branchwise(cpu_pass, dropbp::GradientSensitivity{}));
  dropbp::RunningSensitivity cpu_running(cpu_handler.size()), device_running(device_handler.size());
  cpu_handler.observe_stream(true), device_handler.observe_stream(true);
  for (std::uint64_t step = 0; step < 3; ++step) {
    cpu_handler.begin_step(step), device_handler.begin_step(step);
    cpu.clear_gradients(), device.clear_gradients();
    static_cast<void>(cpu.loss_and_gradients(batch)),
        static_cast<void>(device.loss_and_gradients(batch));
    cpu_handler.observe_gradients(cpu_running), device_handler.observe_gradients(device_running);
  }
  check(device_running.sensitivities(), cpu_running.sensitivities());
}
