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
#include "llama/compared_runs.hpp"
#include "support/catch.hpp"
#include "support/values.hpp"
#include "support/worst.hpp"

namespace {

using namespace llama;
using test::Backend;

template <class T>
Run compare(const ops::LoraConfig& lora, bool tie_embeddings, bool recompute = false) {
  return compare_runs<T, Backend>(lora, tie_embeddings, recompute);
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
        {.rank = 2, .dropout = 0.25, .moment = std::make_shared<ops::MicroStepId>()}, false));
  }
  SECTION("LoRA on some linear maps") {
    check(compare<float>({.rank = 3, .targets = {"q_proj", "down_proj"}}, false));
  }
  SECTION("QLoRA") { check(compare<float>({.rank = 2, .quantize = true}, false)); }
}

TEST_CASE("device: 20 steps in bfloat16 agree with the CPU in float within bfloat16's rounding") {
  SECTION("all weights") { check_bfloat16(compare<dropbp::BFloat16>({}, true), bounds_of_all); }
  SECTION("LoRA") {
    check_bfloat16(compare<dropbp::BFloat16>({.rank = 2}, false), bounds_of_adapters);
  }
  SECTION("QLoRA") {
    check_bfloat16(compare<dropbp::BFloat16>({.rank = 2, .quantize = true}, false),
                   bounds_of_adapters);
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
  check(device_handler.measure_sensitivities_nested(device_pass, dropbp::GradientNormSensitivity{}),
        cpu_handler.measure_sensitivities_nested(cpu_pass, dropbp::GradientNormSensitivity{}));
  check(device_handler.measure_sensitivities_nested(device_pass, dropbp::GradientSensitivity{}),
        cpu_handler.measure_sensitivities_nested(cpu_pass, dropbp::GradientSensitivity{}));
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
