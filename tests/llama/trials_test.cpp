// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// --drop-rate auto.
#include "llama/app/trials.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "llama/app/data.hpp"
#include "llama/app/errors.hpp"
#include "llama/app/ranks.hpp"
#include "llama/app/training_checkpoint.hpp"
#include "llama/files.hpp"
#include "llama/small_run.hpp"
#include "support/catch.hpp"
#include "support/throws.hpp"

using namespace llama;
using test::check_throws;
using test::small_run;
using test::small_shape;

namespace {

TokenData text(double validation_fraction = 0.1) {
  std::vector<std::int32_t> tokens;
  for (std::int32_t i = 0; i < 4000; ++i) tokens.push_back(i * i % 23);
  return {std::move(tokens), validation_fraction};
}

Options run_of(std::uint64_t steps) {
  Options o = small_run(0.5);
  o.drop_rate_auto = true;
  o.steps = steps;
  o.warmup = steps / 10;
  return o;
}

double loss_of(Options o, const TokenData& data, std::uint64_t steps, double drop_rate) {
  o.steps = steps, o.warmup = 1, o.drop_rate = drop_rate, o.allocation = AllocationChoice::depth;
  Trainer trainer(o, small_shape, data, drop_rate);
  while (trainer.steps_done() < steps) trainer.step();
  return trainer.validate();
}

}  // namespace

TEST_CASE("trials: each is a short run of its own, and both take the same time") {
  const TokenData data = text();
  const Trials trials = run_trials<float, dropbp::Cpu>(run_of(400), small_shape, data, nullptr);
  CHECK(trials.ordinary.steps == 10);
  CHECK(trials.ordinary.drop_rate == 0.0);
  // Per token and block: q and o 2 x 24 x 24, k and v 2 x 24 x 12, scores and sums (16 + 1) / 2 x
  // 24 each, gate, up and down 3 x 24 x 40, all times two; 64 x 24 x 2 for the output layer.
  const double forward = 3.0 * 2.0 * (2 * 576 + 2 * 288 + 2 * 8.5 * 24 + 3 * 960),
               head = 2.0 * 64 * 24;
  const double ratio = (3.0 * forward + 3.0 * head) / (1.5 * forward + 3.0 * head);
  CHECK(trials.depth.steps == static_cast<std::uint64_t>(10.0 * ratio + 0.5));
  CHECK(trials.depth.steps == 18);
  CHECK(trials.depth.drop_rate == 0.75);
  CHECK(trials.ordinary.validation_loss == loss_of(run_of(400), data, 10, 0.0));
  CHECK(trials.depth.validation_loss == loss_of(run_of(400), data, 18, 0.75));
}

TEST_CASE("trials: a fortieth of the run, at least 10 and at most 100 steps") {
  const TokenData data = text();
  const auto steps = [&](std::uint64_t all) {
    return run_trials<float, dropbp::Cpu>(run_of(all), small_shape, data, nullptr).ordinary.steps;
  };
  CHECK(steps(100) == 10);
  CHECK(steps(1000) == 25);
  CHECK(steps(10'000) == 100);
}

TEST_CASE("trials: the lower validation loss decides; without a difference nothing is dropped") {
  Trials trials;
  trials.ordinary = {.steps = 10, .validation_loss = 2.5};
  trials.depth = {.allocation = AllocationChoice::depth,
                  .drop_rate = 0.75,
                  .steps = 17,
                  .validation_loss = 2.25};
  CHECK(trials.better().drop_rate == 0.75);
  CHECK(text_of(trials) ==
        "in the same time, 10 steps with --drop-rate 0 reached the validation loss 2.5000, and 17 "
        "steps with --drop-rate 0.75 --allocation depth 2.2500: the run takes --drop-rate 0.75 "
        "--allocation depth");
  trials.depth.validation_loss = 2.5;
  CHECK(trials.better().drop_rate == 0.0);
}

TEST_CASE("trials: the run takes what they chose, and a resumed one what its checkpoint has") {
  const TokenData data = text();
  Ranks alone;
  std::vector<std::string> said;
  const auto note = [&](std::string_view text) { said.emplace_back(text); };

  Options o = run_of(100);
  const auto trials = decide_drop_rate<float, dropbp::Cpu>(o, small_shape, data, alone, note);
  REQUIRE(trials);
  CHECK(o.drop_rate == trials->better().drop_rate);
  CHECK(o.allocation == trials->better().allocation);
  REQUIRE(said.size() == 2);
  CHECK(said[1] == "--drop-rate auto: " + text_of(*trials));

  // A checkpoint of another choice.
  const test::TemporaryFolder folder;
  Options other = run_of(100);
  other.drop_rate = 0.25, other.allocation = AllocationChoice::sharp;
  Trainer trainer(other, small_shape, data, 0.25);
  trainer.step();
  TrainingCheckpoints(folder / "ck", identity_of(other, small_shape, data, trainer.model()))
      .save(trainer);
  Options resumed = run_of(100);
  resumed.resume = true, resumed.checkpoint = folder / "ck";
  CHECK_FALSE(decide_drop_rate<float, dropbp::Cpu>(resumed, small_shape, data, alone, note));
  CHECK(resumed.drop_rate == 0.25);
  CHECK(resumed.allocation == AllocationChoice::sharp);
  CHECK(said.back() == "--drop-rate auto: the checkpoint has --drop-rate 0.25 --allocation sharp");
  // Without an intact checkpoint the run begins, with trials.
  resumed.checkpoint = folder / "none";
  CHECK(decide_drop_rate<float, dropbp::Cpu>(resumed, small_shape, data, alone, note));

  Options chosen = small_run(0.5);
  CHECK_FALSE(decide_drop_rate<float, dropbp::Cpu>(chosen, small_shape, data, alone, note));
  CHECK(chosen.drop_rate == 0.5);
}

TEST_CASE("trials: what they need") {
  Ranks alone;
  Options o = run_of(99);
  check_throws<UsageError>(
      [&] {
        (void)decide_drop_rate<float, dropbp::Cpu>(o, small_shape, text(), alone,
                                                   [](std::string_view) {});
      },
      {"at least 100 steps", "99", "--drop-rate 0.5"});
  const TokenData all = text(0.0);
  check_throws<UsageError>(
      [&] { (void)run_trials<float, dropbp::Cpu>(run_of(100), small_shape, all, nullptr); },
      {"no tokens are held out", "--validation-fraction"});
}
