// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The weights of the best validation loss survive kills, later steps and checkpoints.
#include "llama/app/best_weights.hpp"

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "llama/app/errors.hpp"
#include "llama/files.hpp"
#include "llama/formats/output_lock.hpp"
#include "llama/small_run.hpp"
#include "support/catch.hpp"
#include "support/throws.hpp"

namespace {

using namespace llama;
namespace fs = std::filesystem;

std::vector<StepRecord> records_of(const std::vector<std::optional<double>>& losses) {
  std::vector<StepRecord> records;
  for (const auto& loss : losses) {
    StepRecord& record = records.emplace_back();
    record.step = records.size() - 1, record.validation_loss = loss;
  }
  return records;
}

TokenData text() {
  std::vector<std::int32_t> tokens;
  for (std::int32_t i = 0; i < 600; ++i) tokens.push_back(i * i % 61);
  return {std::move(tokens), 0.2};
}

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder))
    if (const std::string name = entry.path().filename().string(); name.starts_with("best-"))
      names.insert(name);
  return names;
}

}  // namespace

TEST_CASE("best: the least loss, the first of equal ones, and how many came after it") {
  CHECK(!best_of({}));
  CHECK(!best_of(records_of({std::nullopt, std::nullopt})));
  const auto best = best_of(records_of({3.0, std::nullopt, 2.0, 2.5, std::nullopt, 2.0}));
  REQUIRE(best);
  CHECK(best->steps == 3);
  CHECK(best->loss == 2.0);
  CHECK(best->since == 2);
  CHECK(best_of(records_of({3.0, 2.0}))->since == 0);
}

TEST_CASE("best: its weights come back bit for bit, whatever was trained since") {
  const test::TemporaryFolder folder;
  const OutputLock lock(Output::folder, folder.path());
  const TokenData data = text();
  for (const bool adapters : {false, true}) {
    Options options = test::small_run(0.5);
    if (adapters) options.mode = ModeChoice::lora, options.lora_rank = 2;
    options.learning_rate = 0.01;
    Trainer trainer(options, options.shape, data, 0.5);
    test::write_bytes(folder / "best-00000009.safetensors.12-0123abcd.tmp", "of a killed run");
    BestWeights best(folder.path(), trainer.records());
    CHECK(names_in(folder.path()).empty());
    for (int i = 0; i < 3; ++i) trainer.step();
    trainer.validate();
    best.save(trainer);
    const auto weights = test::tensors_of(trainer);
    for (int i = 0; i < 3; ++i) trainer.step();
    // Whatever was measured: a worse loss than the best.
    RunState state = trainer.state();
    state.records.back().validation_loss = 100.0;
    trainer.restore(state);
    best.save(trainer);
    CHECK(test::tensors_of(trainer) != weights);
    CHECK(names_in(folder.path()) == std::set<std::string>{"best-00000003.safetensors"});
    best.load(trainer);
    CHECK(test::tensors_of(trainer) == weights);
    fs::remove(folder / "best-00000003.safetensors");
    test::check_throws<UsageError>([&] { BestWeights(folder.path(), trainer.records()); },
                                   {"--best", "best-00000003"});
  }
}

TEST_CASE("best: of the last two checkpoints each finds the best of its past") {
  const test::TemporaryFolder folder;
  const OutputLock lock(Output::folder, folder.path());
  const TokenData data = text();
  const Options options = test::small_run(0.5);
  Trainer trainer(options, options.shape, data, 0.5);
  BestWeights best(folder.path(), trainer.records());
  const auto measure = [&](double loss) {
    trainer.step();
    RunState state = trainer.state();
    state.records.back().validation_loss = loss;
    trainer.restore(state);
    best.save(trainer);
  };
  const auto file = [](int steps) {
    return "best-0000000" + std::to_string(steps) + ".safetensors";
  };
  measure(5.0), measure(4.0);
  CHECK(names_in(folder.path()) == std::set{file(2)});  // no checkpoint needs the first
  best.prune(trainer.records());
  measure(3.0), measure(2.0);
  CHECK(names_in(folder.path()) == std::set{file(2), file(4)});
  best.prune(trainer.records());
  CHECK(names_in(folder.path()) == std::set{file(2), file(4)});
  measure(9.0);
  best.prune(trainer.records());
  CHECK(names_in(folder.path()) == std::set{file(4)});
  test::write_bytes(folder / file(4), "damaged");
  const auto weights = test::tensors_of(trainer);
  test::check_throws<std::runtime_error>([&] { best.load(trainer); }, {file(4)});
  CHECK(test::tensors_of(trainer) == weights);
}

TEST_CASE("best: weights of a larger model are refused") {
  const test::TemporaryFolder folder;
  const OutputLock lock(Output::folder, folder.path());
  const TokenData data = text();
  const Options options = test::small_run(0.5);
  Options larger = options;
  ++larger.shape.layers;
  Trainer other(larger, larger.shape, data, 0.5), trainer(options, options.shape, data, 0.5);
  BestWeights best(folder.path(), other.records());
  other.step(), other.validate(), best.save(other);
  trainer.step(), trainer.validate(), trainer.step();
  const auto weights = test::tensors_of(trainer);
  test::check_throws<std::runtime_error>([&] { best.load(trainer); },
                                         {"best-00000001", "tensors that train"});
  CHECK(test::tensors_of(trainer) == weights);
}
