// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

#include "llama/app/trials.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "llama/app/choices.hpp"
#include "llama/app/errors.hpp"
#include "llama/app/flags.hpp"
#include "llama/app/training_checkpoint.hpp"

namespace llama {

namespace {

/// Of a run that takes `steps` steps in place of options.steps.
Options options_of_trial(Options options, const Trial& trial) {
  const auto shortened = [&, all = options.steps](std::uint64_t steps) {
    return steps == 0 ? 0 : std::max<std::uint64_t>(1, steps * trial.steps / all);
  };
  options.warmup = shortened(options.warmup);
  options.drop_warmup = shortened(options.drop_warmup);
  options.decay = shortened(options.decay);
  options.steps = trial.steps;
  options.epochs = 0;
  options.drop_rate = trial.drop_rate;
  options.allocation = trial.allocation;
  return options;
}

/// FLOPs of a token's step, of which the branches' backward passes keep `kept`. A frozen weight has
/// no gradient. The adapters' own products, below a tenth, do not count.
double step_flops(const Options& options, auto& model, double kept) {
  double branches = 0.0;
  model.for_each_layer([&](const auto& layer) { branches += layer.cost(); });
  const LlamaConfig& config = model.config();
  const double head =
      2.0 * static_cast<double>(config.hidden) * static_cast<double>(config.vocabulary);
  const double backward = options.mode == ModeChoice::full ? 2.0 : 1.0;
  return branches * (1.0 + backward * kept) + head * (1.0 + backward);
}

std::string flags_of(const Trial& trial) {
  if (trial.drop_rate == 0.0) return "--drop-rate 0";
  return fmt::format("--drop-rate {:g} --allocation {}", trial.drop_rate,
                     name_of(trial.allocation));
}

}  // namespace

std::string text_of(const Trials& trials) {
  const Trial &ordinary = trials.ordinary, &depth = trials.depth;
  return fmt::format(
      "in the same time, {} steps with {} reached the validation loss {:.4f}, and {} steps with {} "
      "{:.4f}: the run takes {}",
      ordinary.steps, flags_of(ordinary), ordinary.validation_loss, depth.steps, flags_of(depth),
      depth.validation_loss, flags_of(trials.better()));
}

template <class T, class Backend>
Trials run_trials(const Options& options, const LlamaConfig& config, const TrainingData& data,
                  Ranks* ranks) {
  Trials trials;
  trials.ordinary = {.allocation = options.allocation,
                     .steps = std::clamp<std::uint64_t>(options.steps / 40, 10, 100)};
  trials.depth = {.allocation = AllocationChoice::depth, .drop_rate = 0.75};
  for (Trial* trial : {&trials.ordinary, &trials.depth}) {
    BasicTrainer<T, Backend> trainer(options_of_trial(options, *trial), config, data,
                                     trial->drop_rate, ranks);
    if (!trainer.can_validate())
      throw UsageError(
          "--drop-rate auto compares validation losses, but no tokens are held out; raise "
          "--validation-fraction, or give a number, such as --drop-rate 0.5");
    if (trial == &trials.ordinary)
      trials.depth.steps = static_cast<std::uint64_t>(std::llround(
          static_cast<double>(trial->steps) * step_flops(options, trainer.model(), 1.0) /
          step_flops(options, trainer.model(), 1.0 - trials.depth.drop_rate)));
    while (trainer.steps_done() < trial->steps) trainer.step();
    trial->validation_loss = trainer.validate();
  }
  return trials;
}

template <class T, class Backend>
std::optional<Trials> decide_drop_rate(Options& options, const LlamaConfig& config,
                                       const TrainingData& data, Ranks& ranks,
                                       const std::function<void(std::string_view)>& note) {
  if (!options.drop_rate_auto) return std::nullopt;
  const auto tell = [&](const std::string& text) {
    if (!options.quiet) note("--drop-rate auto: " + text);
  };
  if (options.resume && options.checkpoint) {
    if (const auto identity = newest_identity(*options.checkpoint)) {
      for (const auto& [flag, value] : *identity) {
        if (flag == "--drop-rate")
          options.drop_rate = convert<double>(value).value_or(options.drop_rate);
        if (flag == "--allocation")
          options.allocation = find_choice(allocations, value).value_or(options.allocation);
      }
      tell(fmt::format("the checkpoint has --drop-rate {:g} --allocation {}", options.drop_rate,
                       name_of(options.allocation)));
      return std::nullopt;
    }
  }
  if (options.steps < least_steps_for_trials)
    throw UsageError(fmt::format(
        "--drop-rate auto needs a run of at least {} steps to try what pays, but it has {}; give a "
        "number, such as --drop-rate 0.5",
        least_steps_for_trials, options.steps));
  tell("short trials without and with drops come before the training");
  const Trials trials = run_trials<T, Backend>(options, config, data, &ranks);
  options.drop_rate = trials.better().drop_rate;
  options.allocation = trials.better().allocation;
  tell(text_of(trials));
  return trials;
}

#define DROPBP_LLAMA_INSTANTIATE(T, Backend)                                                      \
  template Trials run_trials<T, Backend>(const Options&, const LlamaConfig&, const TrainingData&, \
                                         Ranks*);                                                 \
  template std::optional<Trials> decide_drop_rate<T, Backend>(                                    \
      Options&, const LlamaConfig&, const TrainingData&, Ranks&,                                  \
      const std::function<void(std::string_view)>&);
DROPBP_LLAMA_FOR_TRAINED(DROPBP_LLAMA_INSTANTIATE)
#undef DROPBP_LLAMA_INSTANTIATE

}  // namespace llama
