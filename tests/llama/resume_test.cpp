// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A training that is interrupted at any point and resumed has the same bits as an uninterrupted
// one.
#include "llama/app/training_checkpoint.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "llama/app/errors.hpp"
#include "llama/faults.hpp"
#include "llama/files.hpp"
#include "llama/formats/atomic_file.hpp"
#include "support/catch.hpp"
#include "support/promise.hpp"
#include "support/throws.hpp"

namespace {

using namespace llama;
using test::TemporaryFolder;
namespace fs = std::filesystem;

const LlamaConfig shape{
    .vocabulary = 32, .hidden = 8, .intermediate = 12, .layers = 2, .heads = 2, .kv_heads = 1};

Options options_of() {
  Options o;
  o.shape = shape;
  o.steps = 12;
  o.batch = 2;
  o.sequence = 8;
  o.micro_steps = 2;
  o.warmup = 3;
  o.learning_rate = 3e-3;
  o.eval_batches = 2;
  o.allocate_at = 0.25;
  o.reallocate_every = 3;
  o.drop_warmup = 2;
  return o;
}

TokenData text(std::uint64_t seed = 1) {
  std::vector<std::int32_t> tokens;
  for (std::uint64_t i = 0; i < 800; ++i)
    tokens.push_back(static_cast<std::int32_t>((i * i + seed * i) % 31));
  return {std::move(tokens), 0.2};
}

// With a frozen base: adapters with dropout over weights in 4 bits.
std::unique_ptr<Trainer> trainer_of(Options options, const TokenData& data, bool frozen_base) {
  if (frozen_base)
    options.mode = ModeChoice::qlora, options.lora_rank = 2, options.lora_dropout = 0.25;
  return std::make_unique<Trainer>(options, options.shape, data, options.drop_rate);
}

void step(Trainer& trainer) {
  trainer.step();
  if (trainer.steps_done() % 5 == 0) trainer.validate();
}

/// Everything of a run that must not depend on interruptions, as bits; times are left out.
std::vector<std::uint64_t> bits_of(Trainer& trainer) {
  std::vector<std::uint64_t> bits;
  const auto add = [&](double value) { bits.push_back(std::bit_cast<std::uint64_t>(value)); };
  for (const StepRecord& record : trainer.records()) {
    bits.insert(bits.end(), {record.step, record.activation_bytes, record.kept_activation_bytes,
                             record.dropped.size()});
    bits.insert(bits.end(), record.dropped.begin(), record.dropped.end());
    for (const double value :
         {record.loss, record.validation_loss.value_or(-1.0), record.gradient_norm,
          record.kept_flops_fraction, record.updated_parameter_fraction})
      add(value);
  }
  const Summary summary = trainer.summary();
  add(summary.validation_loss.value_or(-1.0)), add(summary.mean_drop_rate),
      add(summary.backward_flops_fraction);
  const RunState state = trainer.state();
  for (const char c : to_text(state.handler)) bits.push_back(static_cast<unsigned char>(c));
  for (std::size_t i = 0; i < state.running.own.size(); ++i) {
    add(state.running.own[i]), add(state.running.own_weights[i]), add(state.running.ratios[i]),
        add(state.running.ratio_weights[i]);
    bits.push_back(state.running.last[i]);
  }
  bits.push_back(state.running.step);
  const auto add_all = [&](const float* values, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) bits.push_back(std::bit_cast<std::uint32_t>(values[i]));
  };
  trainer.model().for_each_tensor(
      [&](const auto& tensor) { add_all(tensor.value, tensor.size()); });
  for (std::size_t i = 0; i < trainer.optimizer().parameters().size(); ++i) {
    const auto& moments = trainer.optimizer().state(i);
    bits.push_back(moments.steps);
    add_all(moments.first_moment.data(), moments.first_moment.size());
    add_all(moments.second_moment.data(), moments.second_moment.size());
  }
  return bits;
}

RunIdentity identity_of(const Options& options, const TokenData& data, Trainer& trainer) {
  return llama::identity_of(options, options.shape, data, trainer.model());
}

void no_note(std::string_view text) { FAIL("an unexpected note: " << text); }

fs::path file_of(const fs::path& folder, int step) {
  char name[32];
  std::snprintf(name, sizeof name, "step-%08d.safetensors", step);
  return folder / name;
}

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder))
    names.insert(entry.path().filename().string());
  return names;
}

void flip(const fs::path& path, std::uint64_t bit) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(bit / 8));
  const int byte = file.get();
  file.seekp(static_cast<std::streamoff>(bit / 8));
  file.put(static_cast<char>(byte ^ 1 << bit % 8));
}

/// A folder with the checkpoints after steps 2 and 3, and what is needed to go on.
struct Saved {
  explicit Saved(Options o = options_of())
      : options(std::move(o)), data(text()), trainer(trainer_of(options, data, false)) {
    identity = identity_of(options, data, *trainer);
    TrainingCheckpoints checkpoints(dir, identity);
    for (int i = 1; i <= 3; ++i) {
      step(*trainer);
      checkpoints.save(*trainer);
    }
  }
  /// The step of the resumed checkpoint, -1 for none; `notes` counts the skipped checkpoints.
  int resumed(int* notes = nullptr) const {
    const auto other = trainer_of(options, data, false);
    TrainingCheckpoints checkpoints(dir, identity);
    int count = 0;
    const bool found = checkpoints.resume(*other, [&](std::string_view) { ++count; });
    if (notes != nullptr) *notes = count;
    return found ? static_cast<int>(other->steps_done()) : -1;
  }
  TemporaryFolder folder;
  fs::path dir = folder / "ck";
  Options options;
  TokenData data;
  std::unique_ptr<Trainer> trainer;
  RunIdentity identity;
};

}  // namespace

TEST_CASE("resume: a run resumed from any step has the same bits") {
  const TokenData data = text();
  const struct {
    SensitivityChoice sensitivity;
    SamplingChoice sampling;
    AllocationChoice allocation;
    ScalingChoice scaling;
    bool frozen_base;
  } cases[] = {
      {SensitivityChoice::running, SamplingChoice::bernoulli, AllocationChoice::optimal,
       ScalingChoice::none, false},
      {SensitivityChoice::gradient_norm, SamplingChoice::at_least_target, AllocationChoice::greedy,
       ScalingChoice::none, false},
      {SensitivityChoice::gradient, SamplingChoice::fixed_budget, AllocationChoice::optimal,
       ScalingChoice::inverse_keep_rate, false},
      {SensitivityChoice::running, SamplingChoice::fixed_budget, AllocationChoice::greedy,
       ScalingChoice::none, true},
      {SensitivityChoice::running, SamplingChoice::bernoulli, AllocationChoice::uniform,
       ScalingChoice::none, false},
      {SensitivityChoice::gradient_norm, SamplingChoice::bernoulli, AllocationChoice::sharp,
       ScalingChoice::none, true},
      {SensitivityChoice::running, SamplingChoice::bernoulli, AllocationChoice::depth,
       ScalingChoice::none, false},
  };
  for (const auto& c : cases) {
    Options options = options_of();
    options.sensitivity = c.sensitivity;
    options.sampling = c.sampling;
    options.allocation = c.allocation;
    options.gradient_scaling = c.scaling;
    const TemporaryFolder folder;
    const auto uninterrupted = trainer_of(options, data, c.frozen_base),
               saving = trainer_of(options, data, c.frozen_base);
    const RunIdentity identity = identity_of(options, data, *saving);
    for (std::uint64_t i = 0; i <= options.steps; ++i) {
      TrainingCheckpoints(folder / std::to_string(i), identity).save(*saving);
      if (i < options.steps) step(*saving), step(*uninterrupted);
    }
    const auto expected = bits_of(*uninterrupted);
    CHECK(bits_of(*saving) == expected);
    for (std::uint64_t i = 0; i <= options.steps; ++i) {
      const auto resumed = trainer_of(options, data, c.frozen_base);
      REQUIRE(TrainingCheckpoints(folder / std::to_string(i), identity).resume(*resumed, no_note));
      REQUIRE(resumed->steps_done() == i);
      while (resumed->steps_done() < options.steps) step(*resumed);
      CAPTURE(static_cast<int>(c.sensitivity), c.frozen_base, i);
      CHECK((bits_of(*resumed) == expected));
    }
    // Frozen weights are not in the checkpoint.
    const SafetensorsFile file(file_of(folder / "12", 12));
    CHECK((file.find("model.layers.0.self_attn.q_proj.weight") == nullptr) == c.frozen_base);
    CHECK((file.find("model.layers.0.self_attn.q_proj.lora_A.weight") != nullptr) == c.frozen_base);
    CHECK((file.find("model.embed_tokens.weight") == nullptr) == c.frozen_base);
  }
}

TEST_CASE("resume: a run whose steps are done goes on with more, to the same bits if interrupted") {
  const TokenData data = text();
  Options options = options_of();
  options.steps = 6;
  const TemporaryFolder folder;
  const auto first = trainer_of(options, data, false);
  const auto save = [&](const fs::path& to, Trainer& trainer) {
    TrainingCheckpoints(to, identity_of(options, data, trainer)).save(trainer);
  };
  while (first->steps_done() < 3) step(*first);
  save(folder / "c", *first);
  fs::create_directory(folder / "unfinished");
  fs::copy(file_of(folder / "c", 3), folder / "unfinished");
  while (first->steps_done() < 6) step(*first);
  save(folder / "c", *first);  // removes the checkpoint of step 3
  fs::copy(folder / "c", folder / "twice");

  options.steps = 12;
  std::vector<std::string> notes;
  const auto note = [&](std::string_view said) { notes.emplace_back(said); };
  const auto resumed = [&](const fs::path& from) {
    auto trainer = trainer_of(options, data, false);
    TrainingCheckpoints folder_of(from, identity_of(options, data, *trainer));
    REQUIRE(folder_of.resume(*trainer, note));
    return trainer;
  };
  const auto straight = resumed(folder / "c");
  REQUIRE(notes.size() == 1);
  CHECK(notes[0].find("of 6 steps goes on to 12") != std::string::npos);
  REQUIRE(straight->steps_done() == 6);
  while (straight->steps_done() < 12) step(*straight);

  const auto killed = resumed(folder / "twice");
  while (killed->steps_done() < 9) step(*killed);
  save(folder / "twice", *killed);
  const auto last = resumed(folder / "twice");
  REQUIRE(last->steps_done() == 9);
  CHECK(notes.size() == 2);  // the second resume is of a run of 12 steps
  while (last->steps_done() < 12) step(*last);
  CHECK((bits_of(*last) == bits_of(*straight)));

  // Neither fewer steps, nor more before all were done.
  options.steps = 13;
  const auto refused = [&](const fs::path& from) {
    const auto trainer = trainer_of(options, data, false);
    TrainingCheckpoints folder_of(from, identity_of(options, data, *trainer));
    CHECK_THROWS_AS(folder_of.resume(*trainer, note), UsageError);
  };
  refused(folder / "unfinished");
  options.steps = 5;
  refused(folder / "c");

  // Where nothing depends on the number of steps, the extended run is the longer one.
  Options constant = options_of();
  constant.schedule = ScheduleChoice::constant;
  constant.allocation = AllocationChoice::uniform;
  const auto whole = trainer_of(constant, data, false);
  while (whole->steps_done() < 12) step(*whole);
  constant.steps = 6;
  const auto half = trainer_of(constant, data, false);
  while (half->steps_done() < 6) step(*half);
  TrainingCheckpoints(folder / "constant", identity_of(constant, data, *half)).save(*half);
  constant.steps = 12;
  const auto extended = trainer_of(constant, data, false);
  REQUIRE(TrainingCheckpoints(folder / "constant", identity_of(constant, data, *extended))
              .resume(*extended, note));
  while (extended->steps_done() < 12) step(*extended);
  CHECK((bits_of(*extended) == bits_of(*whole)));
}

TEST_CASE("resume: a later state is replaced by that of the checkpoint") {
  Saved saved;
  const auto expected = bits_of(*saved.trainer);
  for (int i = 0; i < 4; ++i) step(*saved.trainer);
  REQUIRE(TrainingCheckpoints(saved.dir, saved.identity).resume(*saved.trainer, no_note));
  CHECK((bits_of(*saved.trainer) == expected));
  // To before the first step, where there are no moments yet.
  const auto untrained = trainer_of(saved.options, saved.data, false);
  TrainingCheckpoints(saved.folder / "0", saved.identity).save(*untrained);
  REQUIRE(TrainingCheckpoints(saved.folder / "0", saved.identity).resume(*saved.trainer, no_note));
  CHECK((bits_of(*saved.trainer) == bits_of(*untrained)));
}

TEST_CASE("resume: the newest intact checkpoint is used, and damaged ones are named") {
  Saved saved;
  CHECK(names_in(saved.dir) ==
        std::set<std::string>{"step-00000002.safetensors", "step-00000003.safetensors"});
  CHECK(saved.resumed() == 3);
  const std::string second = test::read_bytes(file_of(saved.dir, 2)),
                    third = test::read_bytes(file_of(saved.dir, 3));

  test::write_bytes(file_of(saved.dir, 3), third.substr(0, third.size() - 1));
  const auto other = trainer_of(saved.options, saved.data, false);
  {
    TrainingCheckpoints checkpoints(saved.dir, saved.identity);
    std::string notes;
    CHECK(checkpoints.resume(*other, [&](std::string_view note) { notes += note; }));
    CHECK(other->steps_done() == 2);
    CHECK(notes.find("step-00000003.safetensors") != std::string::npos);
    CHECK(notes.find("truncated") != std::string::npos);
    // The run continues, and a damaged checkpoint does not count as one of the two kept.
    test::write_bytes(saved.dir / "step-00000003.safetensors.tmp", "left by a kill");
    test::write_bytes(saved.dir / "step-3.safetensors", "another name");
    test::write_bytes(saved.dir / "notes.txt", "mine");
    step(*other), step(*other);
    checkpoints.save(*other);
    CHECK(names_in(saved.dir) ==
          std::set<std::string>{".dropbp.lock", "notes.txt", "step-00000002.safetensors",
                                "step-00000004.safetensors", "step-3.safetensors"});
  }
  CHECK(saved.resumed() == 4);

  int notes = 0;
  flip(file_of(saved.dir, 4), 8 * (fs::file_size(file_of(saved.dir, 4)) - 1));
  CHECK(saved.resumed(&notes) == 2);
  CHECK(notes == 1);
  test::write_bytes(file_of(saved.dir, 2), third);  // not what its name says
  CHECK(saved.resumed(&notes) == -1);
  CHECK(notes == 2);
  const std::vector<float> values(3);
  write_safetensors(
      file_of(saved.dir, 2),
      std::vector<TensorToWrite>{{"a", {3}, values}});  // intact, but a model's weights
  CHECK(saved.resumed(&notes) == -1);
  CHECK(notes == 2);
  fs::remove_all(saved.dir);
  CHECK(saved.resumed(&notes) == -1);
  CHECK(notes == 0);
}

TEST_CASE("resume: a state with NaN or infinity is not saved, and the older checkpoints stay") {
  Saved saved;
  TrainingCheckpoints checkpoints(saved.dir, saved.identity);
  const std::string second = test::read_bytes(file_of(saved.dir, 2)),
                    third = test::read_bytes(file_of(saved.dir, 3));
  step(*saved.trainer);
  const auto refused = [&](float& number, float value, const char* what) {
    CAPTURE(what);
    const float was = std::exchange(number, value);
    test::check_throws<std::runtime_error>([&] { checkpoints.save(*saved.trainer); },
                                           {"must be finite", what, "; "});
    CHECK(names_in(saved.dir) == std::set<std::string>{".dropbp.lock", "step-00000002.safetensors",
                                                       "step-00000003.safetensors"});
    CHECK((test::read_bytes(file_of(saved.dir, 2)) == second));
    CHECK((test::read_bytes(file_of(saved.dir, 3)) == third));
    number = was;
  };
  constexpr float infinity = std::numeric_limits<float>::infinity(),
                  nan = std::numeric_limits<float>::quiet_NaN();
  saved.trainer->model().for_each_tensor([&](const auto& tensor) {
    if (tensor.name == "model.layers.1.mlp.up_proj.weight")
      refused(tensor.value[9], nan, "'model.layers.1.mlp.up_proj.weight' is NaN at [1, 1]");
  });
  auto& moments = saved.trainer->optimizer().state(0);
  refused(moments.second_moment.data()[17], infinity,
          "'dropbp.second_moment.model.embed_tokens.weight' is infinite at [2, 1]");
  refused(moments.first_moment.data()[0], -infinity,
          "'dropbp.first_moment.model.embed_tokens.weight' is infinite at [0, 0]");
  checkpoints.save(*saved.trainer);
  CHECK(names_in(saved.dir) == std::set<std::string>{".dropbp.lock", "step-00000004.safetensors"});
}

TEST_CASE("resume: a checkpoint with NaN or infinity is skipped, naming the position") {
  const Saved saved;
  const std::string good = test::read_bytes(file_of(saved.dir, 3));
  const struct {
    const char* tensor;
    std::size_t at;
    const char* note;
  } cases[] = {
      {"model.embed_tokens.weight", 9, "'model.embed_tokens.weight' is NaN at [1, 1]"},
      {"dropbp.second_moment.model.embed_tokens.weight", 0,
       "'dropbp.second_moment.model.embed_tokens.weight' is NaN at [0, 0]"},
      {"dropbp.records.figures", 10, "'dropbp.records.figures' is NaN at [1, 0]"},
      {"dropbp.running.own", 1, "'dropbp.running.own' is NaN at [1]"},
  };
  for (const auto& c : cases) {
    CAPTURE(c.tensor);
    {
      const SafetensorsFile file(file_of(saved.dir, 3));
      std::vector<std::vector<std::byte>> bytes;
      std::vector<RawTensor> tensors;
      for (const TensorInfo& tensor : file.tensors()) {
        auto& own = bytes.emplace_back(static_cast<std::size_t>(tensor.end - tensor.begin));
        file.read_bytes(tensor.name, own);
        if (tensor.name == c.tensor) {
          const float nan = std::numeric_limits<float>::quiet_NaN();
          const double wide = std::numeric_limits<double>::quiet_NaN();
          if (tensor.dtype == DType::f32)
            std::memcpy(own.data() + c.at * sizeof nan, &nan, sizeof nan);
          else
            std::memcpy(own.data() + c.at * sizeof wide, &wide, sizeof wide);
        }
        tensors.push_back({tensor.name, tensor.dtype, tensor.shape, own});
      }
      AtomicFile copy(file_of(saved.dir, 3));
      write_safetensors(copy, tensors, file.metadata());
      copy.publish();
    }
    const auto other = trainer_of(saved.options, saved.data, false);
    std::string notes;
    CHECK(TrainingCheckpoints(saved.dir, saved.identity).resume(*other, [&](std::string_view note) {
      notes += note;
    }));
    INFO(notes);
    CHECK(other->steps_done() == 2);
    CHECK(notes.find("step-00000003.safetensors' must be finite") != std::string::npos);
    CHECK(notes.find(c.note) != std::string::npos);
    test::write_bytes(file_of(saved.dir, 3), good);
    CHECK(saved.resumed() == 3);
  }
}

TEST_CASE("resume: every cut and every flipped bit of a checkpoint is found") {
  Options small = options_of();
  small.shape = {
      .vocabulary = 32, .hidden = 2, .intermediate = 1, .layers = 1, .heads = 1, .kv_heads = 1};
  const Saved saved(small);
  const fs::path path = file_of(saved.dir, 3), copy = saved.dir / "step-00000007.safetensors";
  fs::remove(file_of(saved.dir, 2));
  const auto size = fs::file_size(path);
  std::mt19937_64 random(1);
  std::size_t accepted = 0;
  fs::copy_file(path, copy);
  const auto intact = [&] {
    try {
      SafetensorsFile(copy).verify();
      return true;
    } catch (const std::runtime_error&) {
      return false;
    }
  };
  CHECK(intact());
  const char* const many = std::getenv("DROPBP_FLIPS");
  const int flips = many != nullptr ? std::atoi(many) : 1000;
  for (int i = 0; i < flips; ++i) {
    const std::uint64_t bit = random() % (8 * size);
    flip(copy, bit);
    accepted += intact();
    flip(copy, bit);
  }
  CHECK(accepted == 0);
  CHECK(intact());
  for (auto cut = size; cut-- > 0;) {
    fs::resize_file(copy, cut);
    accepted += intact();
  }
  CHECK(accepted == 0);
  fs::remove(copy);
  // Resuming requires exactly these flags.
  flip(path, 8 * (size - 1) + 3);
  int notes = 0;
  CHECK(saved.resumed(&notes) == -1);
  CHECK(notes == 1);
  dropbp_test::promise(14, "flips=%d truncations=%ju accepted=%zu", flips,
                       static_cast<std::uintmax_t>(size), accepted);
}

TEST_CASE("resume: flags and data that differ are named with both values") {
  const Saved saved;
  const auto refusal_of = [&](Options options, const TokenData& data) -> std::string {
    const auto other = trainer_of(options, data, false);
    const auto before = bits_of(*other);
    TrainingCheckpoints checkpoints(saved.dir, identity_of(options, data, *other));
    try {
      checkpoints.resume(*other, no_note);
    } catch (const UsageError& error) {
      CHECK((bits_of(*other) == before));
      return error.what();
    }
    return "accepted";
  };
  const struct {
    void (*change)(Options&);
    const char* message;
  } cases[] = {
      {[](Options& o) { o.shape.layers = 3; }, "--layers was 2 and is 3;"},
      {[](Options& o) { o.shape.hidden = 16; }, "--hidden was 8 and is 16;"},
      {[](Options& o) { o.shape.intermediate = 13; }, "--intermediate was 12 and is 13;"},
      {[](Options& o) { o.shape.heads = 1; }, "--heads was 2 and is 1;"},
      {[](Options& o) { o.shape.kv_heads = 2; }, "--kv-heads was 1 and is 2;"},
      {[](Options& o) { o.shape.vocabulary = 33; }, "--vocabulary was 32 and is 33;"},
      {[](Options& o) { o.shape.tie_embeddings = true; },
       "--tie-embeddings was false and is true;"},
      {[](Options& o) { o.shape.norm_epsilon = 1e-5; },
       "rms_norm_eps (--model) was 1e-06 and is 1e-05;"},
      {[](Options& o) { o.shape.rope_theta = 5e5; },
       "rope_theta (--model) was 10000 and is 500000;"},
      {[](Options& o) { o.mode = ModeChoice::lora; },
       "--mode was full and is lora, --lora-rank was 0 and is 8, "},
      {[](Options& o) { o.validation_fraction = 0.25; },
       "--validation-fraction was 0.1 and is 0.25;"},
      {[](Options& o) { o.steps = 13; }, "--steps was 12 and is 13;"},
      {[](Options& o) { o.batch = 3; }, "--batch was 2 and is 3;"},
      {[](Options& o) { o.sequence = 9; }, "--sequence was 8 and is 9;"},
      {[](Options& o) { o.micro_steps = 1; }, "--micro-steps was 2 and is 1;"},
      {[](Options& o) { o.learning_rate = std::nextafter(o.learning_rate, 1.0); },
       "--learning-rate was 0.003 and is 0.0030000000000000005;"},
      {[](Options& o) { o.weight_decay = 0.2; },
       "--weight-decay was 0.1 without norms and is 0.2 without norms;"},
      {[](Options& o) { o.weight_decay = 0.0; }, "--weight-decay was 0.1 without norms and is 0;"},
      {[](Options& o) { o.warmup = 4; }, "--warmup was 3 and is 4;"},
      {[](Options& o) { o.schedule = ScheduleChoice::linear; },
       "--schedule was not there and is linear;"},
      {[](Options& o) { o.final_learning_rate = 0.2; },
       "--final-learning-rate was not there and is 0.2;"},
      {[](Options& o) { o.decay = 2; }, "--decay was not there and is 2;"},
      {[](Options& o) { o.grad_clip = 2; }, "--grad-clip was 1 and is 2;"},
      {[](Options& o) { o.seed = 2; }, "--seed was 1 and is 2;"},
      {[](Options& o) { o.eval_batches = 3; }, "--eval-batches was 2 and is 3;"},
      {[](Options& o) { o.drop_rate = 0.25; }, "--drop-rate was 0.5 and is 0.25;"},
      {[](Options& o) { o.allocation = AllocationChoice::greedy; },
       "--allocation was optimal and is greedy;"},
      {[](Options& o) { o.sampling = SamplingChoice::fixed_budget; },
       "--sampling was bernoulli and is fixed-budget;"},
      {[](Options& o) { o.sensitivity = SensitivityChoice::gradient; },
       "--sensitivity was running and is gradient;"},
      {[](Options& o) { o.sensitivity_samples = 2; }, "--sensitivity-samples was 1 and is 2;"},
      {[](Options& o) { o.allocate_at = 0.5; }, "--allocate-at was 0.25 and is 0.5;"},
      {[](Options& o) { o.reallocate_every = 4; }, "--reallocate-every was 3 and is 4;"},
      {[](Options& o) { o.drop_warmup = 0; }, "--drop-warmup was 2 and is 0;"},
      {[](Options& o) { o.gradient_scaling = ScalingChoice::inverse_keep_rate; },
       "--gradient-scaling was none and is inverse-keep-rate;"},
      {[](Options& o) { o.activation_budget_mib = 1; }, "--activation-budget was 0 and is 1;"},
  };
  for (const auto& c : cases) {
    Options options = saved.options;
    c.change(options);
    const std::string refusal = refusal_of(options, saved.data);
    INFO(refusal);
    CHECK(refusal.find(std::string("step-00000003.safetensors', but ") + c.message) !=
          std::string::npos);
  }
  CHECK(refusal_of(saved.options, text(2))
            .find("but what --data or --tokens holds was 640 + 160 tokens") != std::string::npos);
  Options two = saved.options;
  two.seed = 7, two.batch = 1;
  CHECK(refusal_of(two, saved.data).find("but --batch was 2 and is 1, --seed was 1 and is 7; ") !=
        std::string::npos);

  // Recomputing changes the bytes that branches save, and so which branches fit a budget.
  Options budget = saved.options;
  budget.activation_budget_mib = 1, budget.sampling = SamplingChoice::fixed_budget;
  const auto bounded = trainer_of(budget, saved.data, false);
  const RunIdentity plain = identity_of(budget, saved.data, *bounded);
  budget.recompute = true;
  CHECK(plain != identity_of(budget, saved.data, *bounded));

  // The order of the same linear maps does not matter.
  const auto adapted = [&](std::vector<std::string> targets) {
    Options options = saved.options;
    options.mode = ModeChoice::lora;
    options.lora_targets = std::move(targets);
    return identity_of(options, saved.data, *trainer_of(options, saved.data, false));
  };
  CHECK(adapted({"q_proj", "v_proj"}) == adapted({"v_proj", "q_proj", "v_proj"}));
  CHECK(adapted({"q_proj", "v_proj"}) != adapted({"q_proj"}));
  const auto with_patterns = [&](auto change) {
    Options options = saved.options;
    options.mode = ModeChoice::lora;
    change(options);
    return identity_of(options, saved.data, *trainer_of(options, saved.data, false));
  };
  CHECK(with_patterns([](Options& o) { o.lora_patterns.targets = ".*\\.(v|q)_proj"; }) ==
        adapted({"q_proj", "v_proj"}));
  CHECK(with_patterns([](Options& o) { o.lora_patterns.targets = ".*0.*q_proj"; }) !=
        adapted({"q_proj"}));
  CHECK(with_patterns([](Options& o) { o.rslora = true; }) != adapted({}));
  CHECK(with_patterns([](Options& o) { o.nondeterministic_attention = true; }) != adapted({}));
  CHECK(with_patterns([](Options& o) { o.base_precision = BasePrecisionChoice::fp8; }) !=
        adapted({}));
  CHECK(with_patterns([](Options& o) { o.lora_patterns.ranks = {{"q_proj", 2}}; }) != adapted({}));
  CHECK(with_patterns([](Options& o) { o.lora_patterns.ranks = {{"q_proj", 2}}; }) !=
        with_patterns([](Options& o) { o.lora_patterns.ranks = {{"q_proj", 3}}; }));
  // Norms are spared where they train, and adapters are alone.
  const auto decay_of = [](const RunIdentity& identity) {
    return std::ranges::find(identity, "--weight-decay", &RunIdentity::value_type::first)->second;
  };
  CHECK(decay_of(saved.identity).ends_with(" without norms"));
  CHECK_FALSE(decay_of(adapted({})).ends_with(" without norms"));
  CHECK(with_patterns([](Options& o) { o.lora_patterns.alphas = {{"q_proj", 2.0}}; }) !=
        adapted({}));
  CHECK(adapted({}) ==
        adapted({"down_proj", "up_proj", "gate_proj", "o_proj", "v_proj", "k_proj", "q_proj"}));

  // These may differ.
  Options free = saved.options;
  free.threads = 3, free.eval_every = 1, free.log_every = 1, free.checkpoint_every = 7,
  free.quiet = true;
  free.out = "o", free.report = "r", free.plot = "p", free.checkpoint = "c", free.data = "moved",
  free.out_dtype = DType::bf16, free.early_stopping = 3, free.best = true, free.html = "h",
  free.metrics = "m.csv", free.out_format = OutFormatChoice::gguf, free.sample_every = 2;
  CHECK(refusal_of(free, saved.data) == "accepted");

  // Frozen weights are not in the checkpoint: others in the folder of --model are noticed.
  Options based = saved.options;
  based.model = saved.folder / "base";
  save_weights(*based.model, saved.trainer->model());
  const RunIdentity identity = identity_of(based, saved.data, *trainer_of(based, saved.data, true));
  CHECK(identity == identity_of(based, saved.data, *trainer_of(based, saved.data, true)));
  saved.trainer->model().for_each_tensor([&](const auto& tensor) {
    if (tensor.name == "model.norm.weight") tensor.value[1] += 1.0f;
  });
  save_weights(*based.model, saved.trainer->model());
  CHECK(identity != identity_of(based, saved.data, *trainer_of(based, saved.data, true)));
}

TEST_CASE("resume: every flag of the command line must be repeated or is listed as free") {
  const char* const arguments[] = {"llama-finetune", "--help"};
  const std::string help = parse_options(2, arguments, "1").text;
  std::set<std::string> known{
      "--data", "--tokens", "--token-type", "--data-limit", "--model", "--threads", "--out",
      "--out-dtype", "--report", "--plot", "--baseline", "--log-every", "--quiet", "--progress",
      "--eval-every", "--checkpoint", "--resume", "--checkpoint-every", "--version", "--adapter",
      "--merge-out", "--max-shard-size", "--recompute", "--tokenizer",
      // What is made of samples has a checksum, and the steps are known.
      "--loss-on", "--chat-template", "--no-packing", "--long-samples", "--epochs", "--show-sample",
      // When a run ends, and what it writes and prints.
      "--config", "--print-config", "--completion", "--early-stopping", "--best", "--sample-every",
      "--sample-prompt", "--sample-tokens", "--html", "--metrics", "--out-format",
      "--step-deadline"};
  const Saved saved;
  for (const auto& [flag, value] : saved.identity) known.insert(flag);
  // In the identity where they are no defaults; the test above sees each.
  known.insert({"--schedule", "--decay", "--final-learning-rate", "--rslora", "--dora",
                "--nondeterministic-attention", "--base-precision", "--modules-to-save",
                "--lora-targets-pattern", "--lora-rank-pattern", "--lora-alpha-pattern"});
  std::size_t flags = 0;
  for (std::size_t at = help.find("\n  --"); at != std::string::npos;
       at = help.find("\n  --", at + 1)) {
    const std::string flag = help.substr(at + 3, help.find_first_of(" \n", at + 3) - at - 3);
    INFO(flag);
    CHECK(known.contains(flag));
    ++flags;
  }
  CHECK(flags > 40);
}

TEST_CASE("resume: a checkpoint that does not fit the model names the tensor and both shapes") {
  const Saved saved;
  Options options = saved.options;
  options.shape.intermediate = 13;
  const auto other = trainer_of(options, saved.data, false);
  const auto before = bits_of(*other);
  TrainingCheckpoints checkpoints(saved.dir, saved.identity);
  test::check_throws<std::runtime_error>(
      [&] { checkpoints.resume(*other, no_note); },
      {"step-00000003.safetensors'", "'model.layers.0.mlp.", "[13, 8]", "[12, 8]", "; "});
  CHECK((bits_of(*other) == before));
  options.shape = shape;
  options.shape.layers = 3;
  const auto larger = trainer_of(options, saved.data, false);
  test::check_throws<std::runtime_error>([&] { checkpoints.resume(*larger, no_note); },
                                         {"'dropbp.optimizer.steps'"});
}

TEST_CASE(
    "resume: an intact checkpoint with invalid values is an error that leaves the trainer "
    "unchanged") {
  const Saved saved;
  const SafetensorsFile good(file_of(saved.dir, 3));
  // The same tensors and metadata with one change.
  const auto error_with = [&](const std::string& key, const std::string& value,
                              const std::string& without, bool extra) {
    std::vector<std::vector<std::byte>> bytes;
    std::vector<RawTensor> tensors;
    for (const TensorInfo& tensor : good.tensors()) {
      if (tensor.name == without) continue;
      good.read_bytes(tensor.name,
                      bytes.emplace_back(static_cast<std::size_t>(tensor.end - tensor.begin)));
      tensors.push_back({tensor.name, tensor.dtype, tensor.shape, bytes.back()});
    }
    if (extra) tensors.push_back({"extra", DType::u8, {0}, {}});
    auto metadata = good.metadata();
    if (!key.empty()) metadata[key] = value;
    const TemporaryFolder folder;
    AtomicFile file(file_of(folder.path(), 3));
    write_safetensors(file, tensors, metadata);
    file.publish();
    const auto other = trainer_of(saved.options, saved.data, false);
    const auto before = bits_of(*other);
    std::string message = "accepted";
    try {
      TrainingCheckpoints(folder.path(), saved.identity).resume(*other, no_note);
    } catch (const std::runtime_error& error) {
      message = error.what();
      CHECK((bits_of(*other) == before));
    } catch (const UsageError& error) {
      message = error.what();
    }
    return message;
  };
  const auto has = [](const std::string& message, const char* part) {
    return message.find(part) != std::string::npos;
  };
  CHECK(error_with("", "", "", false) == "accepted");
  CHECK(
      has(error_with("dropbp.checkpoint", "2", "", false), "version 1, but it is of version '2'"));
  CHECK(has(error_with("dropbp.handler", "dropbp-state 1\nseed x", "", false),
            "line 2 of a saved dropbp state"));
  std::string handler = good.metadata().at("dropbp.handler");
  handler.replace(handler.find("next_step 3"), 11, "next_step 4");
  CHECK(has(error_with("dropbp.handler", handler, "", false),
            "a record of each step, but it has 3 of 4"));
  CHECK(has(error_with("dropbp.identity", "[]", "", false), "must be one JSON object"));
  CHECK(has(error_with("dropbp.identity", "{\"--other\":\"x\"}", "", false),
            "--other was x and is not there"));
  CHECK(has(error_with("dropbp.identity", "{}", "", false), "--layers was not there and is 2"));
  CHECK(has(error_with("", "", "model.norm.weight", false),
            "must have the tensor 'model.norm.weight' of shape [1, 8]"));
  CHECK(has(error_with("", "", "dropbp.records.counts", false),
            "'dropbp.records.counts' of shape [3, 3]"));
  CHECK(has(error_with("", "", "", true), "no others, but it also has 'extra'"));
}

TEST_CASE("resume: a folder belongs to one run at a time and must be writable") {
  const Saved saved;
  {
    const TrainingCheckpoints first(saved.dir, saved.identity);
    test::check_throws<std::runtime_error>([&] { TrainingCheckpoints(saved.dir, saved.identity); },
                                           {saved.dir.string(), "one run at a time", "; "});
    CHECK(!first.empty());
  }
  CHECK_NOTHROW(TrainingCheckpoints(saved.dir, saved.identity));
  CHECK(TrainingCheckpoints(saved.folder / "new/deep", {}).empty());
  test::write_bytes(saved.folder / "file", "x");
  test::check_throws<std::runtime_error>([&] { TrainingCheckpoints(saved.folder / "file", {}); },
                                         {"file", "folder", "--checkpoint"});
}

TEST_CASE("resume: a full disk leaves the old checkpoints, for any amount of free space") {
  Saved saved;
  const auto size = fs::file_size(file_of(saved.dir, 3));
  const auto before = names_in(saved.dir);
  step(*saved.trainer);
  std::size_t wrong = 0;
  for (rlim_t limit = 0; limit<size; limit += limit + 8> size ? 1 : size / 40) {
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      const rlimit file_size{limit, limit};
      setrlimit(RLIMIT_FSIZE, &file_size);
      test::run_and_exit(
          [&] { TrainingCheckpoints(saved.dir, saved.identity).save(*saved.trainer); },
          "File too large");
    }
    int status = 0;
    waitpid(child, &status, 0);
    wrong += !WIFEXITED(status) || WEXITSTATUS(status) != test::refused;
    wrong += names_in(saved.dir) != before;
  }
  CHECK(wrong == 0);
  CHECK(saved.resumed() == 3);
}

#if defined(__x86_64__) && defined(__linux__)
TEST_CASE("resume: a save that is killed or fails at any system call leaves a usable checkpoint") {
  using test::Fault;
  const Fault fault = GENERATE(Fault::kill, Fault::io_error, Fault::no_space, Fault::short_write);
  CAPTURE(static_cast<int>(fault));
  const Saved saved;
  const std::string second = test::read_bytes(file_of(saved.dir, 2)),
                    third = test::read_bytes(file_of(saved.dir, 3));
  step(*saved.trainer);
  std::size_t struck = 0, wrong = 0, old_left = 0, new_left = 0;
  std::string first_wrong;
  for (std::size_t n = 0;; ++n) {
    fs::remove_all(saved.dir);
    test::write_bytes(file_of(saved.dir, 2), second);
    test::write_bytes(file_of(saved.dir, 3), third);
    const auto outcome = test::run_with_fault(
        [&] {
          TrainingCheckpoints checkpoints(saved.dir, saved.identity);
          checkpoints.save(*saved.trainer);
        },
        fault, n);
    int notes = 0;
    const int now = saved.resumed(&notes);
    bool good = notes == 0 && (now == 3 || now == 4);
    old_left += now == 3;
    new_left += now == 4;
    if (outcome.reached && fault == Fault::kill)
      good &= WIFSIGNALED(outcome.status);
    else
      good &=
          WIFEXITED(outcome.status) && (WEXITSTATUS(outcome.status) == test::refused ||
                                        (WEXITSTATUS(outcome.status) == test::done && now == 4));
    if (!good && first_wrong.empty())
      first_wrong = "call " + std::to_string(n) + " (number " + std::to_string(outcome.number) +
                    "): " + std::to_string(now);
    wrong += !good;
    if (!outcome.reached) break;
    ++struck;
    // In any state, the next save succeeds and no temporary file remains.
    TrainingCheckpoints(saved.dir, saved.identity).save(*saved.trainer);
    wrong += saved.resumed() != 4;
    for (const std::string& name : names_in(saved.dir)) wrong += name.ends_with(".tmp");
  }
  CHECK(first_wrong == "");
  CHECK(wrong == 0);
  CHECK(struck >= 30);
  CHECK(new_left >= 1);
  dropbp_test::promise(12, "faults_at_system_calls=%zu unusable=%zu", struck, wrong);
  CHECK((old_left >= 1 || fault == Fault::short_write));
}
#endif

namespace {

/// The program itself, on a text and with checkpoints of its own.
class Program {
 public:
  explicit Program(int steps) : steps_(std::to_string(steps)) {
    std::string corpus;
    for (std::uint32_t i = 0; i < 4000; ++i) corpus += static_cast<char>('a' + i * i % 23);
    test::write_bytes(folder_ / "text", corpus);
  }

  /// Starts it; `extra` are further arguments, `file_limit` the largest file it may write.
  pid_t start(const std::vector<std::string>& extra, rlim_t file_limit = RLIM_INFINITY) const {
    return start(small_, quiet(extra), file_limit);
  }
  /// Starts it with a line for every step printed into a pipe that holds far fewer lines than there
  /// are steps: without a reader it waits long before its end, however slow the reader is. `output`
  /// is the end to read from.
  pid_t start_piped(const std::vector<std::string>& extra, int& output) const {
    int ends[2];
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    REQUIRE(fcntl(ends[1], F_SETPIPE_SZ, 4096) == 4096);
    std::vector<std::string> words{"--progress", "never", "--log-every", "1"};
    words.insert(words.end(), extra.begin(), extra.end());
    const pid_t child = start(small_, words, RLIM_INFINITY, ends[1]);
    close(ends[1]);
    output = ends[0];
    return child;
  }
  /// The same with the sizes of a model's folder.
  int run_on(const fs::path& model, const std::vector<std::string>& extra,
             rlim_t file_limit = RLIM_INFINITY) const {
    return exit_code_of(start({"--model", model}, quiet(extra), file_limit));
  }
  /// Runs it to its end; its exit code.
  int run(const std::vector<std::string>& extra, rlim_t file_limit = RLIM_INFINITY) const {
    return exit_code_of(start(extra, file_limit));
  }
  std::string output() const { return test::read_bytes(folder_ / "output"); }
  fs::path operator/(const char* name) const { return folder_ / name; }

  /// Arguments for results under this name, and with checkpoints if they are wanted.
  std::vector<std::string> arguments(const std::string& name,
                                     const std::vector<std::string>& more = {}) const {
    std::vector<std::string> words{"--out", folder_ / name, "--report", folder_ / (name + ".json")};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  /// The model's bytes and the loss curve, without the times.
  std::string result(const std::string& name) const {
    nlohmann::json report = nlohmann::json::parse(test::read_bytes(folder_ / (name + ".json")));
    for (nlohmann::json& one : report["steps"])
      for (const char* key : {"forward_ms", "backward_ms", "optimizer_ms"}) one.erase(key);
    report["summary"].erase("tokens_per_second");
    return report["steps"].dump() + report["summary"].dump() +
           test::read_bytes(folder_ / name / "model.safetensors");
  }

 private:
  static std::vector<std::string> quiet(std::vector<std::string> words) {
    words.emplace_back("--quiet");
    return words;
  }
  pid_t start(const std::vector<std::string>& model, const std::vector<std::string>& extra,
              rlim_t file_limit, int output = -1) const {
    const pid_t child = fork();
    if (child != 0) return child;
    if (output < 0) output = open((folder_ / "output").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
    dup2(output, 1), dup2(output, 2);
    const rlimit limit{file_limit, file_limit};
    setrlimit(RLIMIT_FSIZE, &limit);
    std::vector<std::string> words{DROPBP_LLAMA_FINETUNE,
                                   "--data",
                                   folder_ / "text",
                                   "--batch",
                                   "2",
                                   "--sequence",
                                   "16",
                                   "--steps",
                                   steps_,
                                   "--micro-steps",
                                   "2",
                                   "--eval-every",
                                   "8",
                                   "--eval-batches",
                                   "1",
                                   "--threads",
                                   "1",
                                   "--warmup",
                                   "5"};
    words.insert(words.end(), model.begin(), model.end());
    words.insert(words.end(), extra.begin(), extra.end());
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    execv(arguments[0], arguments.data());
    _exit(127);
  }
  static int exit_code_of(pid_t child) {
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

  TemporaryFolder folder_;
  std::string steps_;
  std::vector<std::string> small_{"--layers",       "2",  "--hidden", "16",
                                  "--intermediate", "24", "--heads",  "2"};
};

}  // namespace

TEST_CASE("resume: killed with kill -9 at random moments, the program ends with the same bits") {
  const Program program(40);
  const char* const asked = std::getenv("DROPBP_KILLS");
  const char* const replayed = std::getenv("DROPBP_SEED");
  const int wanted = asked != nullptr ? std::atoi(asked) : 20;
  const unsigned seed = replayed != nullptr
                            ? static_cast<unsigned>(std::strtoul(replayed, nullptr, 10))
                            : std::random_device{}();
  INFO("DROPBP_SEED=" << seed << " replays the moments");
  const auto seconds = [] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
  };

  REQUIRE(program.run(program.arguments("uninterrupted")) == 0);
  const std::string expected = program.result("uninterrupted");
  const fs::path dir = program / "ck";
  const auto arguments =
      program.arguments("resumed", {"--checkpoint", dir, "--checkpoint-every", "3", "--resume"});
  const double start = seconds();
  REQUIRE(program.run(arguments) == 0);
  const double whole_run = seconds() - start;
  CHECK((program.result("resumed") == expected));

  std::mt19937 random(seed);
  std::uniform_real_distribution<double> moment(0.0, whole_run);
  int kills = 0, runs = 0, while_saving = 0, same = 0;
  while (kills < wanted) {
    fs::remove_all(dir);
    fs::remove_all(program / "resumed");
    fs::remove(program / "resumed.json");
    const int kills_of_run = std::min(wanted - kills, 1 + static_cast<int>(random() % 4));
    int status = 0;
    for (int i = 0; i < kills_of_run; ++i) {
      const pid_t child = program.start(arguments);
      std::this_thread::sleep_for(std::chrono::duration<double>(moment(random)));
      kill(child, SIGKILL);
      waitpid(child, &status, 0);
      if (!WIFSIGNALED(status)) break;  // it had ended: resumed runs are shorter
      ++kills;
      if (fs::exists(dir))
        for (const std::string& name : names_in(dir)) while_saving += name.ends_with(".tmp");
    }
    REQUIRE(program.run(arguments) == 0);
    ++runs;
    const bool equal = program.result("resumed") == expected;
    same += equal;
    CHECK(equal);
  }
  std::printf(
      "resume: %d kills in %d runs, %d of them while a checkpoint was written; %d of %d runs ended "
      "with the same bits (DROPBP_SEED=%u)\n",
      kills, runs, while_saving, same, runs, seed);
  dropbp_test::promise(13, "kills=%d runs=%d differing=%d", kills, runs, runs - same);
}

TEST_CASE(
    "resume: the program on Ctrl-C, on a full disk, with other flags and when there is nothing "
    "left to do") {
  const Program program(400);
  REQUIRE(program.run(program.arguments("uninterrupted")) == 0);
  const std::string expected = program.result("uninterrupted");
  const fs::path dir = program / "ck";
  const std::vector<std::string> fresh{"--checkpoint", dir, "--checkpoint-every", "3"};
  const auto more = [](std::vector<std::string> words, std::vector<std::string> last) {
    words.insert(words.end(), last.begin(), last.end());
    return words;
  };
  const auto often = more(fresh, {"--resume"}), resuming = program.arguments("resumed", often);
  // Appends the printed text until it has this many lines or the program ends.
  const auto read_lines = [](int output, std::ptrdiff_t lines, std::string& printed) {
    char part[256];
    ssize_t size = 0;
    while (std::ranges::count(printed, '\n') < lines &&
           (size = read(output, part, sizeof part)) > 0)
      printed.append(part, static_cast<std::size_t>(size));
  };
  constexpr std::ptrdiff_t all = std::numeric_limits<std::ptrdiff_t>::max();

  // A signal ends the run after its step, with a checkpoint of just that step.
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    fs::remove_all(dir);
    int output = -1, status = 0;
    std::string printed;
    const pid_t child = program.start_piped(program.arguments("interrupted", fresh), output);
    read_lines(output, 10, printed);  // it is in its steps
    kill(child, signal);
    read_lines(output, all, printed);
    close(output);
    waitpid(child, &status, 0);
    REQUIRE(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 128 + signal);
    CHECK(printed.find("continue with --resume") != std::string::npos);
    const auto report = nlohmann::json::parse(test::read_bytes(program / "interrupted.json"));
    CHECK(fs::exists(file_of(dir, static_cast<int>(report["steps"].size()))));
    CHECK(program.run(resuming) == 0);
    CHECK((program.result("resumed") == expected));
  }

  // Nothing left to do: the results are written again.
  fs::remove_all(program / "resumed");
  CHECK(program.run(resuming) == 0);
  CHECK((program.result("resumed") == expected));

  CHECK(program.run(fresh) == 2);
  CHECK(program.output().find("add --resume") != std::string::npos);
  CHECK(program.run(more(often, {"--seed", "9"})) == 2);
  CHECK(program.output().find("--seed was 1 and is 9") != std::string::npos);

  // A full disk: exit code 1, the old checkpoint stays, and with room again the run goes on.
  fs::remove_all(dir);
  int output = -1;
  std::string printed;
  const pid_t child = program.start_piped(often, output);
  read_lines(output, 20, printed);  // several checkpoints are written
  kill(child, SIGKILL);
  close(output);
  waitpid(child, nullptr, 0);
  const auto before = names_in(dir);
  REQUIRE(before.size() >= 2);
  CHECK(program.run(often, 10'000) == 1);
  CHECK(program.output().find("File too large") != std::string::npos);
  auto after = names_in(dir);
  for (const std::string& name : before)
    CHECK((after.contains(name) || name.ends_with(".tmp") || name == ".dropbp.lock"));
  CHECK(program.run(resuming) == 0);
  CHECK((program.result("resumed") == expected));

  // If all checkpoints are damaged, the program says so and starts from the beginning.
  for (const std::string& name : names_in(dir)) flip(dir / name, 8 * 100);
  CHECK(program.run(resuming) == 0);
  CHECK(program.output().find("skipping a damaged checkpoint") != std::string::npos);
  CHECK(program.output().find("starting from the beginning") != std::string::npos);
  CHECK((program.result("resumed") == expected));
}

TEST_CASE("program: if one result cannot be written, the others still are") {
  const Program program(100);
  const std::vector<std::string> lora{"--mode", "lora",           "--lora-rank",
                                      "1",      "--lora-targets", "q_proj"};
  REQUIRE(program.run({"--out", program / "base"}) == 0);
  auto words = program.arguments("adapter", lora);
  words.insert(words.end(), {"--merge-out", program / "merged", "--checkpoint", program / "ck",
                             "--checkpoint-every", "0"});
  CHECK(program.run_on(program / "base", words, 9'000) == 1);  // room for the adapter alone
  CHECK(program.output().find("File too large") != std::string::npos);
  CHECK(fs::exists(program / "adapter" / "adapter_model.safetensors"));
  CHECK_FALSE(fs::exists(program / "adapter.json"));
  CHECK_FALSE(fs::exists(program / "merged" / "model.safetensors"));

  // A merged model must not take the place of the base that its adapter names.
  const std::string base = test::read_bytes(program / "base" / "model.safetensors");
  std::vector<std::string> over = lora;
  over.insert(over.end(), {"--merge-out", program / "base"});
  CHECK(program.run_on(program / "base", over) == 2);
  CHECK(program.output().find("--merge-out must not replace") != std::string::npos);
  CHECK(test::read_bytes(program / "base" / "model.safetensors") == base);
}

TEST_CASE(
    "program: with --steps 0 an adapter is merged, and the model validated, without training") {
  const Program training(3), merging(0);
  const std::vector<std::string> lora{"--mode", "lora",           "--lora-rank",
                                      "1",      "--lora-dropout", "0.5"};
  REQUIRE(training.run({"--out", training / "base"}) == 0);
  auto words = training.arguments("adapter", lora);
  words.insert(words.end(), {"--merge-out", training / "merged"});
  REQUIRE(training.run_on(training / "base", words) == 0);
  const auto trained = nlohmann::json::parse(test::read_bytes(training / "adapter.json"));

  REQUIRE(merging.run_on(training / "base",
                         {"--mode", "lora", "--adapter", training / "adapter", "--merge-out",
                          merging / "merged", "--report", merging / "report.json"}) == 0);
  const std::string output = merging.output();
  INFO(output);
  CHECK(output.find("nan") == std::string::npos);
  CHECK(output.find("drop rate 0.5           - ") != std::string::npos);
  CHECK((test::read_bytes(merging / "merged/model.safetensors") ==
         test::read_bytes(training / "merged/model.safetensors")));
  const auto report = nlohmann::json::parse(test::read_bytes(merging / "report.json"));
  CHECK(report["steps"] == nlohmann::json::array());
  CHECK(report["summary"]["final_loss"].is_null());
  CHECK(report["summary"]["validation_loss"] == trained["summary"]["validation_loss"]);
  CHECK(report["config"]["lora_rank"] == 1);
  CHECK(report["config"]["lora_dropout"] == 0.5);
  // Beside a baseline, too.
  CHECK(merging.run({"--baseline"}) == 0);
  CHECK(merging.output().find("nan") == std::string::npos);
}

// One number of a model's or adapter's file.
void change(const fs::path& path, const std::string& name, std::size_t at, float value) {
  const SafetensorsFile file(path);
  std::vector<std::vector<float>> values;
  std::vector<TensorToWrite> tensors;
  for (const TensorInfo& tensor : file.tensors())
    file.read(tensor.name, values.emplace_back(tensor.elements()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (file.tensors()[i].name == name) values[i].at(at) = value;
    tensors.push_back({file.tensors()[i].name, file.tensors()[i].shape, values[i]});
  }
  write_safetensors(path, tensors);
}

TEST_CASE("program: NaN or infinity ends the run with exit code 1, and nothing is written") {
  const Program program(3), none(0);
  REQUIRE(none.run({"--out", none / "base"}) == 0);
  const fs::path weights = none / "base" / "model.safetensors";
  const auto has = [](const Program& one, const char* part) {
    INFO(one.output());
    CHECK(one.output().find(part) != std::string::npos);
  };

  // A finite loss and a gradient that is NaN: neither checkpoint nor model, with clipping and
  // without.
  change(weights, "lm_head.weight", 0, 1e38f);
  for (const char* const clip : {"0", "1"}) {
    auto words = program.arguments("out", {"--checkpoint", program / "ck", "--checkpoint-every",
                                           "1", "--grad-clip", clip, "--drop-rate", "0"});
    CHECK(program.run_on(none / "base", words) == 1);
    has(program, "gradients must stay finite, but in step 0 that of 'model.");
    CHECK(names_in(program / "ck").empty());
    CHECK_FALSE(fs::exists(program / "out" / "model.safetensors"));
    CHECK(nlohmann::json::parse(test::read_bytes(program / "out.json"))["steps"].empty());
  }

  // Merging without training is refused too.
  for (const char* const mode : {"lora", "qlora"}) {
    change(weights, "lm_head.weight", 0, std::numeric_limits<float>::quiet_NaN());
    CHECK(none.run_on(none / "base", {"--mode", mode, "--merge-out", none / "merged",
                                      "--validation-fraction", "0"}) == 1);
    has(none,
        "base/model.safetensors': weights must be finite, but 'lm_head.weight' is NaN at [0, 0];");
    CHECK_FALSE(fs::exists(none / "merged" / "model.safetensors"));
    change(weights, "lm_head.weight", 0, 0.0f);
    CHECK(none.run_on(none / "base", {"--mode", mode, "--merge-out", none / "merged",
                                      "--validation-fraction", "0"}) == 0);
    REQUIRE(fs::remove(none / "merged" / "model.safetensors"));
  }
  // Both are finite, but the merged weight is not.
  CHECK(none.run_on(none / "base", {"--mode", "lora", "--out", none / "adapter"}) == 0);
  const fs::path adapter = none / "adapter" / "adapter_model.safetensors";
  const std::string prefix = "base_model.model.model.layers.1.mlp.up_proj.";
  change(adapter, prefix + "lora_A.weight", 0, 3e38f);
  change(adapter, prefix + "lora_B.weight", 8, 3e38f);
  CHECK(none.run_on(none / "base", {"--mode", "lora", "--adapter", none / "adapter", "--merge-out",
                                    none / "merged", "--validation-fraction", "0"}) == 1);
  has(none, "must be finite, but 'model.layers.1.mlp.up_proj.weight' is infinite at [1, 0];");
  CHECK_FALSE(fs::exists(none / "merged" / "model.safetensors"));
}

TEST_CASE("program: a probable mistake gives a warning, and the run continues") {
  const Program program(1);
  CHECK(program.run({"--drop-rate", "1"}) == 0);
  const std::string output = program.output();
  INFO(output);
  CHECK(output.find("llama-finetune: --drop-rate 1 drops") != std::string::npos);
  CHECK(program.run({"--drop-rate", "0.5"}) == 0);
  CHECK(program.output().find("llama-finetune: ") == std::string::npos);
}

TEST_CASE("program: a model is written in several files and read back to the same bits") {
  const Program program(3), none(0);
  for (const char* const dtype : {"f32", "f16", "bf16"}) {
    CAPTURE(dtype);
    const fs::path whole = program / "whole", shards = program / "shards",
                   again = program / "again";
    REQUIRE(program.run({"--out", whole, "--out-dtype", dtype}) == 0);
    REQUIRE(program.run({"--out", shards, "--out-dtype", dtype, "--max-shard-size", "17000"}) == 0);
    CHECK_FALSE(fs::exists(shards / "model.safetensors"));
    CHECK(names_in(shards).size() >= 4);
    for (const std::string& name : names_in(shards))
      if (name.starts_with("model-"))
        CHECK(fs::file_size(shards / name) < 17000 + 4000);  // and its header
    REQUIRE(none.run_on(shards, {"--out", again, "--out-dtype", dtype}) == 0);
    CHECK((test::read_bytes(again / "model.safetensors") ==
           test::read_bytes(whole / "model.safetensors")));
  }
}

TEST_CASE("resume: the trained model is written in each type and read back") {
  const Program program(3);
  REQUIRE(program.run({"--out", program / "f32"}) == 0);
  REQUIRE(program.run({"--out", program / "f16", "--out-dtype", "f16"}) == 0);
  REQUIRE(program.run({"--out", program / "bf16", "--out-dtype", "bf16"}) == 0);
  const SafetensorsFile wide(program / "f32/model.safetensors");
  for (const auto& [name, dtype] : {std::pair{"f16", DType::f16}, std::pair{"bf16", DType::bf16}}) {
    const SafetensorsFile narrow(fs::path(program / name) / "model.safetensors");
    for (const TensorInfo& tensor : narrow.tensors()) {
      CHECK(tensor.dtype == dtype);
      std::vector<float> expected(tensor.elements()), values(tensor.elements());
      wide.read(tensor.name, expected);
      narrow.read(tensor.name, values);
      for (float& value : expected)
        value = dtype == DType::f16 ? half_to_float(float_to_half(value))
                                    : bfloat16_to_float(float_to_bfloat16(value));
      CHECK((values == expected));
    }
    CHECK(test::read_bytes(fs::path(program / name) / "config.json")
              .find(dtype == DType::f16 ? "float16" : "bfloat16") != std::string::npos);
  }
}

TEST_CASE(
    "program: what belongs to the model goes from --model to --out and --merge-out, and the type "
    "of its numbers stays") {
  const Program program(2);
  const fs::path base = program / "base", out = program / "out";
  REQUIRE(program.run({"--out", base, "--out-dtype", "bf16"}) == 0);
  auto config = nlohmann::json::parse(test::read_bytes(base / "config.json"));
  config["eos_token_id"] = {7, 9};
  test::write_bytes(base / "config.json", config.dump());
  test::write_bytes(base / "generation_config.json", R"({"eos_token_id":[7,9]})");
  test::write_bytes(base / "tokenizer.model", "pieces");
  const std::vector<std::string> lora{"--mode", "lora", "--lora-rank", "1"};
  const auto same = [&](const fs::path& folder) {
    CAPTURE(folder);
    CHECK(test::read_bytes(folder / "tokenizer.model") == "pieces");
    CHECK(test::read_bytes(folder / "generation_config.json") == R"({"eos_token_id":[7,9]})");
    const auto written = nlohmann::json::parse(test::read_bytes(folder / "config.json"));
    CHECK(written["eos_token_id"] == config["eos_token_id"]);
    CHECK(written["torch_dtype"] == "bfloat16");
    CHECK(fs::file_size(folder / "model.safetensors") <
          fs::file_size(base / "model.safetensors") + 1000);
  };
  REQUIRE(program.run_on(base, {"--out", out}) == 0);
  same(out);
  auto words = lora;
  words.insert(words.end(), {"--out", program / "adapter", "--merge-out", program / "merged"});
  REQUIRE(program.run_on(base, words) == 0);
  same(program / "merged");
  // An adapter is its base's: PEFT copies nothing, and keeps float32.
  CHECK(names_in(program / "adapter") ==
        std::set<std::string>{"adapter_config.json", "adapter_model.safetensors"});
  CHECK(SafetensorsFile(program / "adapter/adapter_model.safetensors").tensors()[0].dtype ==
        DType::f32);
  REQUIRE(program.run_on(base, {"--out", base}) == 0);  // over itself
  same(base);
  REQUIRE(program.run_on(base, {"--out", out, "--out-dtype", "f32"}) == 0);
  CHECK(nlohmann::json::parse(test::read_bytes(out / "config.json"))["torch_dtype"] == "float32");
}

TEST_CASE("program: a differing lm_head.weight is used in each mode, and written") {
  const Program program(2), none(0);
  const fs::path tied = program / "tied", untied = program / "untied";
  REQUIRE(program.run({"--out", tied, "--tie-embeddings"}) == 0);
  std::vector<std::vector<float>> values;
  std::vector<TensorToWrite> tensors;
  {
    const SafetensorsFile file(tied / "model.safetensors");
    for (const TensorInfo& tensor : file.tensors()) {
      file.read(tensor.name, values.emplace_back(tensor.elements()));
      tensors.push_back({tensor.name, tensor.shape, {}});
    }
  }
  for (std::size_t i = 0; i < tensors.size(); ++i)
    if (tensors[i].name == "model.embed_tokens.weight") {
      std::vector<float> head = values[i];
      std::ranges::reverse(head);
      tensors.push_back({"lm_head.weight", tensors[i].shape, {}});
      values.push_back(std::move(head));
      break;
    }
  for (std::size_t i = 0; i < tensors.size(); ++i) tensors[i].values = values[i];
  write_safetensors(tied / "model.safetensors", tensors);
  // The same folder, but it says so.
  fs::create_directories(untied);
  fs::copy_file(tied / "model.safetensors", untied / "model.safetensors");
  auto config = nlohmann::json::parse(test::read_bytes(tied / "config.json"));
  REQUIRE(config["tie_word_embeddings"] == true);
  config["tie_word_embeddings"] = false;
  test::write_bytes(untied / "config.json", config.dump());

  for (const char* const mode : {"full", "lora", "qlora"}) {
    CAPTURE(mode);
    const auto words = [&](const char* name) {
      std::vector<std::string> all{"--mode", mode, "--report", program / "report.json"};
      all.insert(all.end(),
                 {std::string_view(mode) == "full" ? "--out" : "--merge-out", program / name});
      return all;
    };
    const auto losses = [&] {
      const auto report = nlohmann::json::parse(test::read_bytes(program / "report.json"));
      return std::pair{report["steps"][0]["loss"].get<double>(),
                       report["summary"]["validation_loss"].get<double>()};
    };
    REQUIRE(program.run_on(untied, words("expected")) == 0);
    CHECK(program.output().find("lm_head.weight") == std::string::npos);
    const auto expected = losses();
    REQUIRE(program.run_on(tied, words("actual")) == 0);
    CHECK(program.output().find("but its lm_head.weight differs from") != std::string::npos);
    CHECK(losses() == expected);
    for (const char* name : {"config.json", "model.safetensors"})
      CHECK((test::read_bytes(program / "actual" / name) ==
             test::read_bytes(program / "expected" / name)));
    CHECK(nlohmann::json::parse(test::read_bytes(program / "actual" /
                                                 "config.json"))["tie_word_embeddings"] == false);
  }
}
