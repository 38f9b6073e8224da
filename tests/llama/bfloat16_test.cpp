// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Training in bfloat16 on the CPU: against float, with the bounds of a card; resumed runs, threads,
// and weights on disk.
#include <memory>
#include <string_view>
#include <vector>

#include "llama/app/trainer.hpp"
#include "llama/app/training_checkpoint.hpp"
#include "llama/compared_runs.hpp"
#include "llama/files.hpp"
#include "llama/formats/model_folder.hpp"
#include "llama/small_run.hpp"
#include "support/catch.hpp"

namespace {

using namespace llama;
using dropbp::BFloat16;
using Trainer16 = BasicTrainer<BFloat16, dropbp::Cpu>;

TokenData small_text() {
  std::vector<std::int32_t> tokens;
  for (std::uint64_t i = 0; i < 400; ++i) tokens.push_back(static_cast<std::int32_t>(i * i % 61));
  return {std::move(tokens), 0.2};
}

// The losses, every value, and the state of the optimizer.
std::vector<float> numbers_of(Trainer16& trainer) {
  std::vector<float> numbers;
  for (const StepRecord& record : trainer.records())
    numbers.push_back(static_cast<float>(record.loss));
  trainer.model().for_each_tensor([&](const ops::ParameterSlice<BFloat16>& tensor) {
    for (std::size_t i = 0; i < tensor.size(); ++i)
      numbers.push_back(dropbp::to_float(tensor.value[i]));
  });
  for (std::size_t i = 0; i < trainer.optimizer().parameters().size(); ++i) {
    const auto& state = trainer.optimizer().state(i);
    for (const auto* matrix : {&state.first_moment, &state.second_moment, &state.master})
      numbers.insert(numbers.end(), matrix->data(), matrix->data() + matrix->size());
  }
  return numbers;
}

void check_resume(ModeChoice mode,
                  BasePrecisionChoice base_precision = BasePrecisionChoice::automatic) {
  const test::TemporaryFolder folder;
  Options options = test::small_run(0.5);
  options.mode = mode, options.base_precision = base_precision;
  const TokenData data = small_text();
  Trainer16 whole(options, options.shape, data, options.drop_rate);
  for (int i = 0; i < 4; ++i) whole.step();

  const auto half = std::make_unique<Trainer16>(options, options.shape, data, options.drop_rate);
  const RunIdentity identity = identity_of(options, options.shape, data, half->model());
  for (int i = 0; i < 2; ++i) half->step();
  TrainingCheckpoints(folder / "checkpoints", identity).save(*half);

  Trainer16 resumed(options, options.shape, data, options.drop_rate);
  REQUIRE(
      TrainingCheckpoints(folder / "checkpoints", identity).resume(resumed, [](std::string_view) {
      }));
  CHECK(numbers_of(resumed) == numbers_of(*half));
  for (int i = 0; i < 2; ++i) resumed.step();
  CHECK(numbers_of(resumed) == numbers_of(whole));
}

}  // namespace

TEST_CASE("20 steps in bfloat16 on the CPU agree with float within bfloat16's rounding") {
  const auto compare = compare_runs<BFloat16, dropbp::Cpu>;
  SECTION("all weights") { check_bfloat16(compare({}, true, false), bounds_of_all); }
  SECTION("recomputed") { check_bfloat16(compare({}, true, true), bounds_of_all); }
  SECTION("LoRA") { check_bfloat16(compare({.rank = 2}, false, false), bounds_of_adapters); }
  SECTION("QLoRA") {
    check_bfloat16(compare({.rank = 2, .quantize = true}, false, false), bounds_of_adapters);
  }
}

TEST_CASE("a bfloat16 run on the CPU, resumed from a checkpoint, ends with the same bits") {
  SECTION("all weights") { check_resume(ModeChoice::full); }
  SECTION("LoRA") { check_resume(ModeChoice::lora); }
  SECTION("QLoRA") { check_resume(ModeChoice::qlora); }
  SECTION("LoRA over 8 bits") { check_resume(ModeChoice::lora, BasePrecisionChoice::fp8); }
}

TEST_CASE("a bfloat16 run on the CPU has the same bits on 1, 2, 3 and 8 threads") {
  Options options = test::small_run(0.5);
  const TokenData data = small_text();
  std::vector<float> first;
  const auto before = static_cast<int>(ops::thread_count());
  for (const int threads : {1, 2, 3, 8}) {
    ops::set_thread_count(threads);
    Trainer16 trainer(options, options.shape, data, options.drop_rate);
    for (int i = 0; i < 4; ++i) trainer.step();
    if (threads == 1) first = numbers_of(trainer);
    CAPTURE(threads);
    CHECK(numbers_of(trainer) == first);
  }
  ops::set_thread_count(before);
}

TEST_CASE("weights in bfloat16 are the same after they were saved and loaded") {
  const test::TemporaryFolder folder;
  LlamaModel<BFloat16> saved(test::small_shape, 8), loaded(test::small_shape, 8);
  saved.initialize(1);
  loaded.initialize(2);
  const auto values_of = [](LlamaModel<BFloat16>& model) {
    std::vector<std::uint16_t> values;
    model.for_each_tensor([&](const ops::ParameterSlice<BFloat16>& tensor) {
      for (std::size_t i = 0; i < tensor.size(); ++i) values.push_back(tensor.value[i].bits);
    });
    return values;
  };
  REQUIRE(values_of(saved) != values_of(loaded));
  save_weights(folder / "model", saved);
  load_weights(folder / "model", loaded);
  CHECK(values_of(saved) == values_of(loaded));
}
