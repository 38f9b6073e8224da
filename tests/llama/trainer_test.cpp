// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Training runs of a small model: what dropping must not change, and what it must save in each
// step.
#include "llama/app/trainer.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <dropbp/kernels/cpu/parallel.hpp>
#include <initializer_list>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "llama/app/errors.hpp"
#include "llama/files.hpp"
#include "llama/formats/model_folder.hpp"
#include "llama/small_run.hpp"
#include "support/catch.hpp"
#include "support/throws.hpp"

namespace {

using namespace llama;
using test::tensors_of;

const LlamaConfig shape = test::small_shape;

Options options_of(double drop_rate) {
  Options o = test::small_run(drop_rate);
  o.learning_rate = 3e-3;
  o.allocation = AllocationChoice::uniform;
  return o;
}

// A text that can be learnt: most tokens are determined by the two before them.
TokenData text() {
  std::vector<std::int32_t> tokens{1, 2};
  for (std::uint64_t i = 2; i < 4000; ++i) {
    const auto a = static_cast<std::uint64_t>(tokens[i - 1]),
               b = static_cast<std::uint64_t>(tokens[i - 2]);
    tokens.push_back(static_cast<std::int32_t>((3 * a + b + (i * i % 7 == 0 ? 5 : 0)) % 64));
  }
  return {std::move(tokens), 0.2};
}

}  // namespace

TEST_CASE("trainer: the loss of the first step is the same to the bit at every drop rate") {
  const TokenData data = text();
  Options options = options_of(0.0);
  Trainer base(options, shape, data, 0.0);
  const double loss = base.step().loss;
  CHECK(std::isfinite(loss));
  for (const double rate : {0.1, 0.5, 0.875, 1.0}) {
    Trainer dropping(options, shape, data, rate);
    CHECK(dropping.step().loss == loss);
  }
}

TEST_CASE("trainer: activation bytes are those of the kept branches, exactly, in every step") {
  const TokenData data = text();
  for (const double rate : {0.0, 0.5, 0.9, 1.0}) {
    Options options = options_of(rate);
    options.micro_steps = 2;
    Trainer trainer(options, shape, data, rate);
    for (int i = 0; i < 8; ++i) {
      const StepRecord& record = trainer.step();
      CHECK(record.activation_bytes == record.kept_activation_bytes);
      if (rate == 0.0) CHECK(record.dropped.empty());
      if (rate == 1.0) CHECK(record.activation_bytes == 0);
      if (rate == 1.0) CHECK(record.dropped.size() == 6);
    }
    CHECK(trainer.drop_report().consistent());
    CHECK(trainer.drop_report().micro_steps == 16);
  }
}

TEST_CASE(
    "trainer: a step changes no bit of the weights of dropped branches, and changes all others") {
  const TokenData data = text();
  Options options = options_of(0.5);
  Trainer trainer(options, shape, data, 0.5);
  std::size_t dropped_steps = 0;
  for (int step = 0; step < 8; ++step) {
    const auto before = tensors_of(trainer);
    const std::vector<std::size_t> dropped = trainer.step().dropped;
    const auto after = tensors_of(trainer);
    for (const auto& [name, values] : after) {
      bool in_dropped = false;
      for (const std::size_t branch : dropped) {
        const std::string block = "model.layers." + std::to_string(branch / 2) + ".";
        const bool attention =
            name.starts_with(block + "self_attn.") || name.starts_with(block + "input_layernorm");
        const bool mlp = name.starts_with(block + "mlp.") ||
                         name.starts_with(block + "post_attention_layernorm");
        in_dropped = in_dropped || (branch % 2 == 0 ? attention : mlp);
      }
      CAPTURE(step, name, in_dropped);
      CHECK((values == before.at(name)) == in_dropped);
    }
    dropped_steps += dropped.size();
  }
  CHECK(dropped_steps > 0);
}

TEST_CASE("trainer: the micro-steps of a step give the loss and gradient of one batch") {
  const TokenData data = text();
  Options options = options_of(0.0);
  options.micro_steps = 3;
  Trainer trainer(options, shape, data, 0.0);
  Trainer other(options, shape, data, 0.0);
  const BatchSampler sampler(data.train(), options.batch, options.sequence, options.seed);
  const std::ptrdiff_t rows = 3 * options.batch, tokens = options.batch * options.sequence;
  Batch whole{.shape = {rows, options.sequence}, .inputs = {}, .labels = {}};
  whole.inputs.resize(static_cast<std::size_t>(3 * tokens));
  whole.labels.resize(whole.inputs.size());
  for (std::uint32_t micro = 0; micro < 3; ++micro) {
    const auto part = [&](std::vector<std::int32_t>& ids) {
      return std::span(ids).subspan(micro * static_cast<std::size_t>(tokens),
                                    static_cast<std::size_t>(tokens));
    };
    sampler.fill(0, micro, part(whole.inputs), part(whole.labels));
  }
  auto& model = other.model();
  dropbp::DropBPHandler handler{model, {.drop_rate = 0.0}};
  handler.begin_step(std::uint64_t{0});
  model.clear_gradients();
  const double loss = model.loss_and_gradients(whole);
  const double norm =
      ops::global_norm(ops::squared_gradient_norms<float>(other.optimizer().parameters()));
  const StepRecord& record = trainer.step();
  CHECK(record.loss == Approx(loss).epsilon(1e-6));
  CHECK(record.gradient_norm == Approx(norm).epsilon(1e-5));
}

TEST_CASE("trainer: with the allocation by depth, the lowest blocks keep their weights") {
  const TokenData data = text();
  Options options = options_of(0.5);
  options.allocation = AllocationChoice::depth;
  Trainer trainer(options, shape, data, 0.5);
  const auto before = tensors_of(trainer);
  for (int i = 0; i < 4; ++i) trainer.step();
  const auto after = tensors_of(trainer);
  for (const auto& [name, values] : before) {
    CAPTURE(name);
    // Half of the cost lies within the middle one of three blocks.
    if (name.starts_with("model.layers.1.")) continue;
    CHECK((after.at(name) == values) == name.starts_with("model.layers.0."));
  }
}

TEST_CASE("trainer: the same losses and weights on any number of threads and from run to run") {
  const TokenData data = text();
  Options options = options_of(0.5);
  options.allocation = AllocationChoice::greedy;
  options.allocate_at = 0.25;
  std::vector<double> losses;
  std::map<std::string, std::vector<float>> weights;
  for (const int threads : {1, 1, 2, 3}) {
    dropbp::ops::set_thread_count(threads);
    Trainer trainer(options, shape, data, 0.5);
    std::vector<double> now;
    for (int i = 0; i < 8; ++i) now.push_back(trainer.step().loss);
    now.push_back(trainer.validate());
    if (losses.empty()) losses = now, weights = tensors_of(trainer);
    CAPTURE(threads);
    CHECK(now == losses);
    CHECK(tensors_of(trainer) == weights);
  }
  dropbp::ops::set_thread_count(0);
}

TEST_CASE("trainer: validation neither counts as a step nor changes the run") {
  const TokenData data = text();
  const Options options = options_of(0.5);
  Trainer plain(options, shape, data, 0.5), validating(options, shape, data, 0.5);
  for (int i = 0; i < 4; ++i) {
    const double loss = plain.step().loss;
    CHECK(validating.step().loss == loss);
    const double validation = validating.validate();
    CHECK(validating.validate() == validation);
    CHECK(validating.records().back().validation_loss == validation);
  }
  CHECK(validating.drop_report().micro_steps == 4);
  CHECK(validating.summary().validation_loss.has_value());
  CHECK_FALSE(plain.summary().validation_loss.has_value());
}

TEST_CASE("trainer: with half of the branches dropped, the loss still falls") {
  const TokenData data = text();
  Options options = options_of(0.5);
  options.steps = 200;
  Trainer trainer(options, shape, data, 0.5);
  const double before = trainer.validate();
  for (std::uint64_t i = 0; i < options.steps; ++i) trainer.step();
  CHECK(before > 4.0);  // log 64 = 4.16
  CHECK(trainer.validate() < before - 1.0);
}

TEST_CASE("trainer: rates are allocated once, at --allocate-at, and keep the budget") {
  const TokenData data = text();
  Options options = options_of(0.5);
  options.allocation = AllocationChoice::greedy;
  options.allocate_at = 0.5;
  for (const auto sensitivity : {SensitivityChoice::gradient_norm, SensitivityChoice::gradient}) {
    options.sensitivity = sensitivity;
    Trainer trainer(options, shape, data, 0.5);
    for (std::uint64_t i = 0; i < options.steps; ++i) {
      trainer.step();
      const dropbp::Report report = trainer.drop_report();
      bool equal = true;
      double kept = 0, all = 0;
      for (const auto& branch : report.branches) {
        equal = equal && branch.drop_rate == 0.5;
        kept += branch.cost * (1 - branch.drop_rate), all += branch.cost;
      }
      CHECK(equal == (i < 4));
      CHECK(kept <= 0.5 * all * (1 + 1e-6));
      CHECK(report.consistent());
    }
    CHECK(trainer.measurement_seconds() > 0);
    // Something was measured: without sensitivities the rates are others.
    std::vector<double> costs;
    for (const auto& branch : trainer.drop_report().branches) costs.push_back(branch.cost);
    dropbp::DropSchedule<> blind(costs, {.drop_rate = 0.5});
    blind.allocate(std::vector<double>(costs.size()), dropbp::GreedyAllocation{});
    CHECK_FALSE(std::ranges::equal(trainer.drop_rates(), blind.drop_rates()));
  }
}

TEST_CASE("trainer: training continues from a model folder with the same loss") {
  const TokenData data = text();
  const test::TemporaryFolder folder;
  Options options = options_of(0.0);
  Trainer first(options, shape, data, 0.0);
  for (int i = 0; i < 3; ++i) first.step();
  const double validation = first.validate();
  save_weights(folder / "model", first.model());
  options.model = folder / "model";
  Trainer second(options, load_config(folder / "model"), data, 0.0);
  CHECK(second.validate() == validation);
  LlamaConfig other = shape;
  other.layers = 4;
  test::check_throws<std::runtime_error>([&] { Trainer(options, other, data, 0.0); },
                                         {"model.layers.3"});
}

TEST_CASE("trainer: a loss that is not finite stops the run and says what to lower") {
  const TokenData data = text();
  Options options = options_of(0.5);
  Trainer trainer(options, shape, data, 0.5);
  trainer.model().for_each_tensor([&](const auto& tensor) {
    if (tensor.name == "model.norm.weight")
      tensor.value[3] = std::numeric_limits<float>::quiet_NaN();
  });
  test::check_throws<std::runtime_error>([&] { trainer.step(); },
                                         {"finite", "step 0", "--learning-rate"});
}

TEST_CASE("trainer: invalid gradients change no weight, and the error names the tensor") {
  const TokenData data = text();
  const struct {
    const char* tensor;
    float value;  // finite, as is the loss
    std::initializer_list<std::string_view> parts;
  } cases[] = {
      {"lm_head.weight",
       1e38f,
       {"gradients must stay finite", "step 2", "'model.layers.2.mlp.down_proj.weight' is NaN at [",
        "no weight was changed", "--learning-rate"}},
      {"model.layers.0.input_layernorm.weight",
       1e19f,
       {"below 1.8e+19", "e+27 in step 2", "most of it of 'model.embed_tokens.weight'",
        "no weight was changed", "--learning-rate"}},
  };
  for (const auto& c : cases)
    for (const double clip : {0.0, 1.0})
      for (const auto sensitivity :
           {SensitivityChoice::running, SensitivityChoice::gradient_norm}) {
        CAPTURE(c.tensor, clip);
        Options options = options_of(0.0);
        options.grad_clip = clip;
        options.sensitivity = sensitivity;
        Trainer trainer(options, shape, data, 0.0);
        trainer.step(), trainer.step();
        trainer.model().for_each_tensor([&](const auto& tensor) {
          if (tensor.name == c.tensor) tensor.value[0] = c.value;
        });
        const auto moments = [&] {
          std::vector<float> all;
          for (std::size_t i = 0; i < trainer.optimizer().parameters().size(); ++i) {
            const auto& state = trainer.optimizer().state(i);
            CHECK(state.steps == 2);
            for (const auto* moment : {&state.first_moment, &state.second_moment})
              all.insert(all.end(), moment->data(), moment->data() + moment->size());
          }
          return all;
        };
        const auto weights = tensors_of(trainer);
        const auto before = moments();
        const auto running = trainer.state().running;
        test::check_throws<std::runtime_error>([&] { trainer.step(); }, c.parts);
        CHECK((tensors_of(trainer) == weights));
        CHECK((moments() == before));
        CHECK(trainer.state().running.own == running.own);
        CHECK(trainer.steps_done() == 2);
      }
}

TEST_CASE("trainer: a validation loss that is not finite is an error and is not recorded") {
  const TokenData data = text();
  Trainer trainer(options_of(0.0), shape, data, 0.0);
  trainer.step();
  const double last = trainer.validate();
  trainer.model().for_each_tensor([&](const auto& tensor) {
    if (tensor.name == "model.norm.weight")
      tensor.value[3] = std::numeric_limits<float>::infinity();
  });
  test::check_throws<std::runtime_error>(
      [&] { trainer.validate(); },
      {"validation loss must stay finite", "after step 1 of 8", "--learning-rate"});
  CHECK(trainer.records().back().validation_loss == last);
  CHECK(trainer.summary().validation_loss == last);
}

TEST_CASE("trainer: weight decay applies to all parameters except norms") {
  const TokenData data = text();
  std::map<std::string, std::vector<float>> after[2];
  for (const bool decays : {false, true}) {
    Options options = options_of(0.0);
    options.warmup = 0;
    options.weight_decay = decays ? 1.0 : 0.0;
    Trainer trainer(options, shape, data, 0.0);
    trainer.step();
    after[decays ? 1 : 0] = tensors_of(trainer);
  }
  std::size_t norms = 0;
  for (const auto& [name, values] : after[0]) {
    CAPTURE(name);
    const bool is_norm = name.ends_with("norm.weight");
    CHECK((after[1].at(name) == values) == is_norm);
    norms += is_norm;
  }
  CHECK(norms == 2 * 3 + 1);
  CHECK(after[0].size() == 3 * 9 + 3);  // embedding and output layer among those that decay
}

TEST_CASE("trainer: an activation budget holds in every step, with any policies") {
  const TokenData data = text();
  Options options = options_of(0.25);
  options.allocation = AllocationChoice::optimal;
  options.sensitivity = SensitivityChoice::running;
  options.sampling = SamplingChoice::fixed_budget;
  options.allocate_at = 0.25;
  options.reallocate_every = 3;
  options.steps = 24;
  Trainer unlimited(options, shape, data, 0.25);
  std::size_t most = 0;
  for (std::uint64_t i = 0; i < options.steps; ++i)
    most = std::max(most, unlimited.step().kept_activation_bytes);

  const double budget = 0.6 * static_cast<double>(most);
  options.activation_budget_mib = budget / 0x1p20;
  Trainer limited(options, shape, data, 0.25);
  std::size_t limited_most = 0;
  for (std::uint64_t i = 0; i < options.steps; ++i)
    limited_most = std::max(limited_most, limited.step().kept_activation_bytes);
  CAPTURE(most, limited_most, budget);
  CHECK(static_cast<double>(limited_most) <= budget);
  CHECK(static_cast<double>(limited_most) > 0.5 * budget);
}

TEST_CASE("trainer: saved activations are in one arena with the size of the plans' bound") {
  const TokenData data = text();
  constexpr std::size_t gaps = 16 * 6 * 64;  // of a branch's matrices in the arena
  const std::size_t attention = 32 * (24 + 1 + 48 + 24 + 4) * sizeof(float),
                    mlp = 32 * (24 + 1 + 80) * sizeof(float);
  const auto run = [&](Options options, double drop_rate, const auto& check) {
    Trainer trainer(options, shape, data, drop_rate);
    for (std::uint64_t i = 0; i < options.steps; ++i) {
      const StepRecord& record = trainer.step();
      CHECK(record.activation_bytes == record.kept_activation_bytes);
      check(trainer, record);
    }
  };
  const auto reserved = [](Trainer& trainer) {
    return trainer.model().saved_memory().reserved_bytes();
  };
  const auto allocations = [](Trainer& trainer) {
    return trainer.model().saved_memory().allocations();
  };

  run(options_of(0.0), 0.0, [&](Trainer& trainer, const StepRecord& record) {
    CHECK(trainer.activation_bound() == 3 * (attention + mlp));
    CHECK(record.activation_bytes == 3 * (attention + mlp));
    CHECK(reserved(trainer) == 3 * (attention + mlp) + gaps);
    CHECK(allocations(trainer) == 1);
  });

  Options options = options_of(0.5);
  options.sampling = SamplingChoice::fixed_budget;
  std::size_t below = 0;  // plans that keep less than the bound, for which the arena is as large
  for (const std::uint64_t warm_up : {0u, 4u}) {
    options.drop_warmup = warm_up;
    for (const double drop_rate :
         {0.4, 0.5, 0.6}) {  // of three branches 1.8, 1.5 and 1.2 are kept: at most 2
      run(options, drop_rate, [&](Trainer& trainer, const StepRecord& record) {
        CHECK(trainer.activation_bound() == (warm_up > 0 ? 3 : 2) * (attention + mlp));
        CHECK(reserved(trainer) == trainer.activation_bound() + gaps);
        CHECK(allocations(trainer) == 1);
        below += trainer.steps_done() == 1 && record.activation_bytes < trainer.activation_bound();
      });
    }
  }
  CHECK(below > 0);
  options.activation_budget_mib = 2.5 * static_cast<double>(attention) / 0x1p20;
  run(options, 0.5, [&](Trainer& trainer, const StepRecord&) {
    CHECK(trainer.activation_bound() <=
          static_cast<std::size_t>(2.5 * static_cast<double>(attention)));
    CHECK(reserved(trainer) == trainer.activation_bound() + gaps);
  });

  // Independent draws have no bound: the arena is that of the largest plan so far.
  std::size_t most = 0;
  run(options_of(0.5), 0.5, [&](Trainer& trainer, const StepRecord& record) {
    most = std::max(most, record.activation_bytes);
    CHECK(reserved(trainer) == most + gaps);
  });
}

TEST_CASE(
    "trainer: memory other than saved activations does not grow with the number of branches") {
  const TokenData data = text();
  const auto peaks = [&](std::ptrdiff_t layers, bool recompute) {
    Options options = options_of(0.0);
    options.recompute = recompute;
    LlamaConfig config = shape;
    config.layers = layers;
    Trainer trainer(options, config, data, 0.0);
    trainer.step();
    return std::pair(trainer.model().saved_memory().peak_bytes(),
                     trainer.model().workspace().peak_bytes());
  };
  for (const bool recompute : {false, true}) {
    const auto two = peaks(2, recompute), seven = peaks(7, recompute);
    CHECK(seven.first * 2 == two.first * 7);
    CHECK(seven.second == two.second);
  }
}

TEST_CASE("trainer: recomputation changes no bit and saves only the inputs of branches") {
  const TokenData data = text();
  for (const auto sensitivity : {SensitivityChoice::running, SensitivityChoice::gradient}) {
    Options options = options_of(0.5);
    options.allocation = AllocationChoice::greedy;
    options.sensitivity = sensitivity;
    options.allocate_at = 0.25;
    Trainer plain(options, shape, data, 0.5);
    options.recompute = true;
    Trainer again(options, shape, data, 0.5);
    for (std::uint64_t i = 0; i < options.steps; ++i) {
      const StepRecord& expected = plain.step();
      const StepRecord& record = again.step();
      CHECK(record.loss == expected.loss);
      CHECK(record.gradient_norm == expected.gradient_norm);
      CHECK(record.dropped == expected.dropped);
      const std::size_t kept = 6 - record.dropped.size();
      CHECK(record.activation_bytes == kept * 32 * 24 * sizeof(float));
      CHECK(record.kept_activation_bytes == record.activation_bytes);
      CHECK(again.model().saved_memory().bytes_in_use() == 0);
      CHECK(again.model().workspace().bytes_in_use() == 0);
    }
    CHECK(tensors_of(plain) == tensors_of(again));
    CHECK(plain.validate() == again.validate());
  }
}

TEST_CASE(
    "trainer: an activation budget that no plan fits is refused, naming the smallest sufficient "
    "one") {
  const TokenData data = text();
  const auto refused = [&](double drop_rate, double budget_kib, AllocationChoice allocation,
                           std::initializer_list<std::string_view> parts) {
    Options options = options_of(drop_rate);
    options.sampling = SamplingChoice::fixed_budget;
    options.allocation = allocation;
    options.sensitivity = SensitivityChoice::gradient_norm;
    options.activation_budget_mib = budget_kib / 1024;
    test::check_throws<UsageError>([&] { Trainer(options, shape, data, drop_rate); }, parts);
  };
  // All branches save 77.25 KiB of both sequences, the largest 13.125 KiB.
  refused(0.0, 77, AllocationChoice::uniform,
          {"--activation-budget", "the 0.08 MiB that all branches save", "--drop-rate"});
  refused(0.5, 13.125, AllocationChoice::uniform,
          {"more than the 0.02 MiB", "largest branch", "lower --batch"});
  refused(0.5, 38, AllocationChoice::greedy,
          {"the 0.04 MiB that all branches save for one sequence", "--sensitivity running"});

  Options options = options_of(0.5);
  options.sampling = SamplingChoice::fixed_budget;
  options.activation_budget_mib = 13.25 / 1024;
  Trainer(options, shape, data, 0.5).step();
  Trainer(options, shape, data, 0.0).step();  // the baseline of --baseline has no budget
  options.drop_rate = 0.0;
  options.activation_budget_mib = 77.25 / 1024;
  Trainer(options, shape, data, 0.0).step();
  options.drop_rate = 0.5;
  options.allocation = AllocationChoice::greedy;
  options.allocate_at = 0.0;
  options.activation_budget_mib = 38.0 / 1024;
  Trainer(options, shape, data, 0.5).step();  // running sensitivities need no measurement
  options.sensitivity = SensitivityChoice::gradient_norm;
  options.activation_budget_mib = 38.625 / 1024;
  Trainer measures(options, shape, data, 0.5);
  measures.step();
  CHECK(measures.measurement_seconds() > 0.0);
  CHECK(measures.model().saved_memory().allocations() == 1);
}

TEST_CASE("trainer: running sensitivities set the rates repeatedly without a measurement") {
  const TokenData data = text();
  Options options = options_of(0.5);
  options.allocation = AllocationChoice::optimal;
  options.sensitivity = SensitivityChoice::running;
  options.allocate_at = 0.25;
  options.reallocate_every = 4;
  options.steps = 16;
  Trainer trainer(options, shape, data, 0.5);
  std::vector<std::vector<double>> rates;
  for (std::uint64_t i = 0; i < options.steps; ++i) {
    trainer.step();
    rates.emplace_back(trainer.drop_rates().begin(), trainer.drop_rates().end());
  }
  CHECK(trainer.measurement_seconds() == 0.0);
  CHECK(rates[3] == std::vector<double>(rates[3].size(), 0.5));
  CHECK(rates[4] != rates[3]);
  CHECK(rates[7] == rates[4]);
  CHECK(rates[8] != rates[4]);
  CHECK(rates[12] != rates[8]);
}

TEST_CASE(
    "trainer: training works with gradients scaled by 1 / (1 - rate) and with a warm-up of rates") {
  const TokenData data = text();
  Options options = options_of(0.5);
  options.gradient_scaling = ScalingChoice::inverse_keep_rate;
  options.drop_warmup = 20;
  options.steps = 200;
  Trainer trainer(options, shape, data, 0.5);
  const double before = trainer.validate();
  CHECK(trainer.step().dropped.empty());
  for (std::uint64_t i = 1; i < options.steps; ++i) trainer.step();
  CHECK(trainer.validate() < before - 1.0);
}

TEST_CASE("trainer: without --reallocate-every, running sensitivities set the rates ten times") {
  const TokenData data = text();
  Options options = options_of(0.5);
  options.allocation = AllocationChoice::optimal;
  options.sensitivity = SensitivityChoice::running;
  options.allocate_at = 0.25;
  options.steps = 20;
  Trainer trainer(options, shape, data, 0.5);
  std::vector<double> before(trainer.drop_rates().begin(), trainer.drop_rates().end());
  for (std::uint64_t i = 0; i < options.steps; ++i) {
    trainer.step();
    const std::vector<double> rates(trainer.drop_rates().begin(), trainer.drop_rates().end());
    CHECK((rates != before) == (i >= 5 && i % 2 == 1));
    before = rates;
  }
}

TEST_CASE("trainer: gradients are clipped from --grad-clip on, and not below") {
  const TokenData data = text();
  const auto run = [&](double grad_clip) {
    Options options = options_of(0.0);
    options.grad_clip = grad_clip;
    Trainer trainer(options, shape, data, 0.0);
    for (int i = 0; i < 4; ++i) trainer.step();
    return trainer.state().records;
  };
  const auto free = run(0.0);
  double most = 0.0;
  for (const StepRecord& record : free) most = std::max(most, record.gradient_norm);
  const auto wide = run(1.01 * most), tight = run(1e-12);
  for (std::size_t i = 0; i < free.size(); ++i) CHECK(wide[i].loss == free[i].loss);
  CHECK(tight[0].loss == free[0].loss);
  CHECK(tight[1].loss != free[1].loss);
}

TEST_CASE("trainer: a step has its times; a restored run has the tokens and losses of the saved") {
  const TokenData data = text();
  Options options = options_of(0.5);
  options.micro_steps = 2;
  Trainer trainer(options, shape, data, 0.5);
  for (int i = 0; i < 3; ++i) trainer.step();
  const double validation = trainer.validate();
  const RunState state = trainer.state();
  double milliseconds = 0.0;
  for (const StepRecord& record : state.records) {
    CHECK(record.forward_ms > 0.0);
    CHECK(record.backward_ms > 0.0);
    CHECK(record.optimizer_ms > 0.0);
    CHECK(record.step_ms >= record.optimizer_ms);
    milliseconds += record.step_ms;
  }
  CHECK(state.training_seconds == Approx(1e-3 * milliseconds));
  const auto tokens_of = [](const Trainer& one) {
    return one.summary().tokens_per_second * one.state().training_seconds;
  };
  const double tokens = 3.0 * 2.0 * static_cast<double>(options.batch * options.sequence);
  CHECK(tokens_of(trainer) == Approx(tokens));

  Trainer other(options, shape, data, 0.5);
  other.step();
  other.restore(state);
  CHECK(tokens_of(other) == Approx(tokens));
  CHECK(other.drop_report().micro_steps == 6);
  CHECK(other.summary().validation_loss == validation);
  CHECK(other.summary().final_loss == trainer.summary().final_loss);
  CHECK(other.steps_done() == 3);
  RunState cut = state;
  cut.records.pop_back();
  test::check_throws<std::invalid_argument>([&] { other.restore(cut); }, {"2 of 3"});
}

TEST_CASE("trainer: with adapters only these are trained, in the rank that was asked for") {
  const TokenData data = text();
  Options options = options_of(0.0);
  options.mode = ModeChoice::lora;
  options.lora_rank = 3;
  Trainer trainer(options, shape, data, 0.0);
  std::size_t trained = 0;
  trainer.model().for_each_tensor([&](const auto& tensor) {
    if (!tensor.trained) return;
    ++trained;
    INFO(tensor.name);
    CHECK(tensor.name.find("lora_") != std::string::npos);
    CHECK(std::min(tensor.rows, tensor.columns) == 3);
  });
  CHECK(trained > 0);
  CHECK(std::isfinite(trainer.step().loss));
}
