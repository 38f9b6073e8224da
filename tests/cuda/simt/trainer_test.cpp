// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// llama-finetune's trainer on the emulated device: its checkpoints and adapters copy the device's
// values to the host and back.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
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
#include "llama/app/preview.cpp"
#include "llama/app/run.cpp"
#include "llama/app/trainer.cpp"
#include "llama/app/training_checkpoint.cpp"
#include "llama/app/training_state.cpp"
#include "llama/model/adapter.cpp"
#include "llama/model/model.cpp"

// For trainer_parts.cpp.
template class llama::LlamaModel<float, Emulated>;
template class llama::BasicTrainer<float, Emulated>;

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

/// What `run` writes to the standard error stream.
template <class Run>
std::string written_by(const std::filesystem::path& file, const Run& run) {
  std::fflush(stderr);
  const int before = dup(STDERR_FILENO),
            to = open(file.c_str(), O_CREAT | O_WRONLY | O_TRUNC, S_IRUSR | S_IWUSR);
  REQUIRE((before >= 0 && to >= 0));
  dup2(to, STDERR_FILENO);
  run();
  std::fflush(stderr);
  dup2(before, STDERR_FILENO);
  close(before), close(to);
  return test::read_bytes(file);
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
void check_resume(ModeChoice mode,
                  BasePrecisionChoice base_precision = BasePrecisionChoice::automatic) {
  const test::TemporaryFolder folder;
  Options options = small_options(mode);
  options.base_precision = base_precision;
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
  SECTION("bfloat16, a base in 8 bits") {
    check_resume<dropbp::BFloat16>(ModeChoice::lora, BasePrecisionChoice::fp8);
  }
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

TEST_CASE("emulated device: a run says what computed attention in its lines and its report") {
  const test::TemporaryFolder folder;
  Options options = small_options(ModeChoice::full);
  options.shape.vocabulary = 256;
  options.device = DeviceChoice::cuda;
  options.data = folder / "text.txt";
  options.report = folder / "report.json";
  std::string text;
  for (int i = 0; i < 300; ++i) text += "line " + std::to_string(i * i) + "\n";
  test::write_bytes(*options.data, text);
  const auto lines_of = [&] {
    return written_by(folder / "stderr.txt", [&] {
      Ranks alone;
      CHECK(run_on<float, Emulated>(options, alone) == 0);
    });
  };
  const std::string lines = lines_of();
  INFO(lines);
  for (const bool backward : {false, true}) {
    const std::string line = std::string("attention in float, ") +
                             (backward ? "backward" : "forward") +
                             " pass, 2 x 8 tokens, 4 heads of 4, 2 kv heads: own kernels, because "
                             "cuDNN computes in 16-bit numbers only";
    INFO(line);
    const std::size_t at = lines.find(line);
    CHECK(at != std::string::npos);
    CHECK(lines.find(line, at + 1) == std::string::npos);  // once
    CHECK(test::read_bytes(*options.report).find(line) != std::string::npos);
  }
  options.quiet = true;
  CHECK(lines_of().find("attention") == std::string::npos);
}

// Emulated::waits() counts every wait; nothing counts as done before one.
TEST_CASE("emulated device: a step waits once, for its loss, norms and sensitivities") {
  const TokenData data = small_text();
  Options options = small_options(ModeChoice::lora);
  options.steps = 20;
  options.micro_steps = 2;
  options.sensitivity = SensitivityChoice::running;
  EmulatedTrainer<dropbp::BFloat16> trainer(options, options.shape, data, options.drop_rate);
  trainer.step();
  for (int i = 0; i < 8; ++i) {
    const std::size_t before = Emulated::waits();
    trainer.step();
    CHECK(Emulated::waits() == before + 1);
  }
  // Whoever asks for the times waits for the end of the step.
  const std::size_t before = Emulated::waits();
  const StepRecord& record = trainer.records().back();
  CHECK(Emulated::waits() == before + 1);
  CHECK(trainer.training_seconds() > 0.0);
  CHECK(Emulated::waits() == before + 1);
  CHECK((record.forward_ms > 0.0 && record.optimizer_ms > 0.0));
  CHECK(record.forward_ms + record.backward_ms + record.optimizer_ms <= record.step_ms);
}

TEST_CASE("emulated device: a step whose loss nobody reads does not wait") {
  LlamaModel<float, Emulated> model(small_options(ModeChoice::full).shape, 8);
  model.initialize(3);
  dropbp::DropBPHandler handler{model, {.drop_rate = 0.5, .seed = 1}};
  handler.observe_stream();
  ops::AdamW<float, Emulated> optimizer(model.parameters());
  Batch batch{.shape = {2, 8}, .inputs = std::vector<std::int32_t>(16, 3), .labels = {}};
  for (std::int32_t i = 0; i < 16; ++i) batch.labels.push_back(i);
  const auto step = [&](std::uint64_t number) {
    handler.begin_step(number);
    model.clear_gradients();
    const dropbp::DeferredNumber loss = model.deferred_loss_and_gradients(batch);
    optimizer.step();
    return loss;
  };
  const std::size_t before = Emulated::waits();
  std::vector<dropbp::DeferredNumber> losses;
  for (std::uint64_t i = 0; i < 5; ++i) losses.push_back(step(i));
  CHECK(Emulated::waits() == before);
  for (const dropbp::DeferredNumber& loss : losses) CHECK(std::isfinite(loss.value()));
  CHECK(losses.back().value() < losses.front().value());
  CHECK(Emulated::waits() == before + 1);

  // A kept branch below measures no norm that the branch above has measured.
  std::size_t kept = 0;
  handler.begin_step(std::uint64_t{5});
  for (std::size_t i = 0; i < handler.size(); ++i) kept += handler.plan().dropped(i) ? 0u : 1u;
  const std::size_t norms = simt::kernels_run()["squared_norms"];
  model.clear_gradients();
  static_cast<void>(model.deferred_loss_and_gradients(batch));
  REQUIRE(kept > 0);
  CHECK(simt::kernels_run()["squared_norms"] - norms == kept + 1);
}
