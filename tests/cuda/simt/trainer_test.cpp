// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// llama-finetune's trainer on the emulated device: its checkpoints and adapters copy the device's
// values to the host and back.
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string_view>
#include <type_traits>
#include <vector>

#include "llama/files.hpp"
#include "support/catch.hpp"
#include "support/emulated.hpp"
#include "support/throws.hpp"

// Instantiates the trainer's templates for one more backend. Those for a GPU are compiled
// elsewhere.
#undef DROPBP_LLAMA_CUDA
#include "llama/app/trainer.cpp"
#include "llama/app/training_checkpoint.cpp"
#include "llama/app/training_state.cpp"
#include "llama/model/adapter.cpp"
#include "llama/model/model.cpp"

namespace {

using namespace llama;

template <class T>
using EmulatedTrainer = BasicTrainer<T, Emulated>;

Options small_options(ModeChoice mode) {
  Options options;
  options.shape = {};
  options.shape.vocabulary = 31;
  options.shape.hidden = 16;
  options.shape.intermediate = 24;
  options.shape.layers = 2;
  options.shape.heads = 4;
  options.shape.kv_heads = 2;
  options.mode = mode;
  options.lora_rank = 2;
  options.steps = 4;
  options.batch = 2;
  options.sequence = 8;
  options.eval_batches = 1;
  options.drop_rate = 0.5;
  options.sensitivity_samples = 1;
  options.learning_rate = 1e-2;
  return options;
}

TokenData small_text() {
  std::vector<std::int32_t> tokens;
  for (std::uint64_t i = 0; i < 400; ++i) tokens.push_back(static_cast<std::int32_t>(i * i % 31));
  return {std::move(tokens), 0.2};
}

// The losses, and every value in device memory.
template <class T>
std::vector<float> numbers_of(EmulatedTrainer<T>& trainer) {
  std::vector<float> numbers;
  for (const StepRecord& record : trainer.records())
    numbers.push_back(static_cast<float>(record.loss));
  trainer.model().for_each_tensor([&](const ops::ParameterSlice<T, Emulated>& tensor) {
    for (std::size_t i = 0; i < tensor.size(); ++i)
      numbers.push_back(dropbp::cuda::to_float(tensor.value[i]));
  });
  for (std::size_t i = 0; i < trainer.optimizer().parameters().size(); ++i) {
    const auto& state = trainer.optimizer().state(i);
    for (const auto* matrix : {&state.first_moment, &state.second_moment, &state.master})
      numbers.insert(numbers.end(), matrix->data(), matrix->data() + matrix->size());
  }
  return numbers;
}

template <class T>
void check_resume(ModeChoice mode) {
  const test::TemporaryFolder folder;
  const Options options = small_options(mode);
  const TokenData data = small_text();
  EmulatedTrainer<T> whole(options, options.shape, data, options.drop_rate);
  for (int i = 0; i < 4; ++i) whole.step();

  const auto half =
      std::make_unique<EmulatedTrainer<T>>(options, options.shape, data, options.drop_rate);
  const RunIdentity identity = identity_of(options, options.shape, data, half->model());
  for (int i = 0; i < 2; ++i) half->step();
  TrainingCheckpoints(folder / "checkpoints", identity).save(*half);

  EmulatedTrainer<T> resumed(options, options.shape, data, options.drop_rate);
  REQUIRE(
      TrainingCheckpoints(folder / "checkpoints", identity).resume(resumed, [](std::string_view) {
      }));
  CHECK(numbers_of(resumed) == numbers_of(*half));
  for (int i = 0; i < 2; ++i) resumed.step();
  CHECK(numbers_of(resumed) == numbers_of(whole));
}

// The device sums squares in float, so finite gradients may be too large.
template <class T>
void check_refused_gradients() {
  const TokenData data = small_text();
  const struct {
    const char* tensor;
    float value;  // finite, as is the loss
    std::initializer_list<std::string_view> parts;
  } cases[] = {
      {"lm_head.weight",
       1e38f,
       {"gradients must stay finite", "step 1", "that of 'model.", "no weight was changed"}},
      {"model.norm.weight",
       1e25f,
       {"below 1.8e+19", "e+2", " in step 1", "most of it of '", "no weight was changed"}},
  };
  for (const auto& c : cases) {
    INFO(c.tensor);
    Options options = small_options(ModeChoice::full);
    options.drop_rate = 0.0;
    EmulatedTrainer<T> trainer(options, options.shape, data, 0.0);
    trainer.step();
    trainer.model().for_each_tensor([&](const ops::ParameterSlice<T, Emulated>& tensor) {
      if (tensor.name == c.tensor) tensor.value[0] = dropbp::cuda::from_float<T>(c.value);
    });
    const std::vector<float> before = numbers_of(trainer);
    test::check_throws<std::runtime_error>([&] { trainer.step(); }, c.parts);
    CHECK((numbers_of(trainer) == before));
  }
}

}  // namespace

TEST_CASE(
    "emulated device: gradients that are not finite or too large change no weight, and the error "
    "names the tensor") {
  SECTION("float") { check_refused_gradients<float>(); }
  SECTION("bfloat16 with master weights") { check_refused_gradients<dropbp::BFloat16>(); }
}

TEST_CASE("emulated device: a run resumed from a checkpoint ends with the same bits") {
  SECTION("float, all weights") { check_resume<float>(ModeChoice::full); }
  SECTION("bfloat16 with master weights, all weights") {
    check_resume<dropbp::BFloat16>(ModeChoice::full);
  }
  SECTION("bfloat16, QLoRA") { check_resume<dropbp::BFloat16>(ModeChoice::qlora); }
}

TEST_CASE("emulated device: saved adapters and merged models have the device's values") {
  const test::TemporaryFolder folder;
  Options options = small_options(ModeChoice::lora);
  const TokenData data = small_text();
  EmulatedTrainer<float> trained(options, options.shape, data, options.drop_rate);
  for (int i = 0; i < 2; ++i) trained.step();
  save_adapter(folder / "adapter", trained.model(), "");
  save_weights(folder / "merged", trained.model());
  const double loss = trained.validate();

  // Load it on the CPU and on the device.
  options.adapter = folder / "adapter";
  Trainer cpu(options, options.shape, data, 0.5);
  CHECK(std::abs(cpu.validate() - loss) < 1e-6 * loss);
  CHECK(EmulatedTrainer<float>(options, options.shape, data, 0.5).validate() == loss);

  // The losses of a model after so few steps say little about its weights.
  save_weights(folder / "cpu", cpu.model());
  LlamaModel<float> merged(options.shape, 8), expected(options.shape, 8);
  LlamaModel<float, Emulated> again(options.shape, 8);
  load_weights(folder / "merged", merged), load_weights(folder / "cpu", expected),
      load_weights(folder / "merged", again);
  const auto values_of = [](auto& model) {
    std::vector<float> values;
    model.for_each_tensor([&](const auto& tensor) {
      values.insert(values.end(), tensor.value, tensor.value + tensor.size());
    });
    return values;
  };
  const std::vector<float> x = values_of(merged), y = values_of(expected);
  REQUIRE(x.size() == y.size());
  for (std::size_t i = 0; i < x.size(); ++i) REQUIRE(std::abs(x[i] - y[i]) < 1e-7f);
  CHECK(values_of(again) == x);
}
