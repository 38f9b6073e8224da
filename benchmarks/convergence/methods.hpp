// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The tables of what `convergence` compares, and on what.
#pragma once

#include <cmath>
#include <cstdint>
#include <memory>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include <dropbp/policy/sharp_allocation.hpp>

#include "convergence/plans.hpp"
#include "llama/formats/config.hpp"

namespace bench {

/// What AdamW does for a parameter that has no gradient in some steps.
enum class Moments {
  by_update,       ///< nothing: its moments and step count wait for the next gradient
  by_time,         ///< both moments weigh gradients by their age in steps
  first_by_time,   ///< the first moment does
  second_by_time,  ///< the second moment does
  longer_second,   ///< the second moment is a mean of as many more updates as these are rarer
  step_by_pause    ///< an update is as large as the root of the steps since the last one
};

/// A way of training.
struct Method {
  const char* name;
  const char* text;  ///< what it does
  std::unique_ptr<PlanSource> (*plans)(Setup);
  double batch = 1.0;  ///< share of the regime's batch
  /// Lengths of its runs as shares of the regime's steps, each with a complete learning-rate
  /// schedule. The learning rate is tuned at the first.
  std::vector<double> lengths = {1.0};
  bool drops = true;  ///< its runs depend on the drop rate
  Moments moments = Moments::by_update;
};

inline constexpr const char *ordinary_method = "ordinary", *half_batch_method = "half the batch";

/// An allocation for RateOptions.
inline auto by(auto policy) {
  return [policy](const dropbp::AllocationInput& input) { return policy.allocate(input); };
}
/// As llama-finetune allocates.
inline std::vector<double> bounded(const dropbp::AllocationInput& input) {
  return dropbp::OptimalAllocation<>{.max_rates = {1.0 - 0.25 * (1.0 - input.drop_rate)}}.allocate(
      input);
}
inline std::vector<double> last_half_floor(const dropbp::AllocationInput& input) {
  const auto count = static_cast<double>(input.costs.size());
  std::vector<double> rates;
  for (std::size_t i = 0; i < input.costs.size(); ++i)
    rates.push_back(static_cast<double>(i) < count * input.drop_rate ? 0.9 : 0.0);
  return rates;
}
template <unsigned sharpness = 4>
std::vector<double> by_depth_to(const dropbp::AllocationInput& input) {
  std::vector<double> numbers;
  for (std::size_t i = 0; i < input.costs.size(); ++i)
    numbers.push_back(1.0 + static_cast<double>(i / 2));
  dropbp::AllocationInput deep = input;
  deep.sensitivities = numbers;
  return dropbp::SharpAllocation{sharpness}.allocate(deep);
}
inline std::vector<double> by_depth(const dropbp::AllocationInput& input) {
  return by_depth_to<4>(input);
}
inline std::vector<double> by_depth_16(const dropbp::AllocationInput& input) {
  return by_depth_to<16>(input);
}
inline RateOptions adaptive_options() {
  return {.allocate = by(dropbp::SharpAllocation{}), .first = 0.03, .complete_steps = true};
}
template <unsigned sharpness>
std::unique_ptr<PlanSource> sharp(Setup setup) {
  return std::make_unique<Rates<dropbp::BernoulliSampling>>(
      std::move(setup), RateOptions{.allocate = by(dropbp::SharpAllocation{sharpness})});
}

template <class Source>
std::unique_ptr<PlanSource> make(Setup setup) {
  return std::make_unique<Source>(std::move(setup));
}
template <class Sampling = dropbp::BernoulliSampling>
std::unique_ptr<PlanSource> make_rates(Setup setup, RateOptions options) {
  return std::make_unique<Rates<Sampling>>(std::move(setup), std::move(options));
}

inline std::unique_ptr<PlanSource> adaptive(Setup setup) {
  return make_rates(std::move(setup), adaptive_options());
}
inline std::unique_ptr<PlanSource> uniform(Setup setup) { return make_rates(std::move(setup), {}); }
/// As adaptive, with a drop rate that changes.
template <class Shape>
std::unique_ptr<PlanSource> adaptive_by(Setup setup, Shape shape) {
  RateOptions options = adaptive_options();
  options.shape = shape;
  return make_rates(std::move(setup), std::move(options));
}

inline const std::vector<Method>& methods() {
  static const std::vector<Method> table{
      {ordinary_method, "nothing is dropped", make<Complete>, 1.0, {1.0, 0.7, 0.5, 0.35}, false},
      {"optimal", "`OptimalAllocation` of running sensitivities, as llama-finetune",
       [](Setup setup) { return make_rates(std::move(setup), {.allocate = bounded}); }},
      {"sharp", "`SharpAllocation`: the sensitivities to the 4th power, and no least keep rate",
       sharp<4>},
      {"sharp, early", "the same, first allocated after 3 % of the steps",
       [](Setup setup) {
         return make_rates(std::move(setup),
                           {.allocate = by(dropbp::SharpAllocation{}), .first = 0.03});
       }},
      {"adaptive",
       "as `AdaptiveHandler`: the same without drops until then, and in one step before each "
       "further allocation",
       adaptive},
      {"published", "the published allocation and sampling, measured once after 10 % of the steps",
       [](Setup setup) {
         return make_rates<dropbp::AtLeastTargetSampling>(
             std::move(setup),
             {.allocate = by(dropbp::GreedyAllocation{}), .period = 0.0, .measured = true});
       }},
      {"uniform", "one rate for all branches", uniform},
      {half_batch_method,
       "ordinary training with half the tokens a step",
       make<Complete>,
       0.5,
       {1.4, 1.0, 0.7, 2.0},
       false},
      {"highest blocks", "as `DepthAllocation`, in whole blocks: the lowest are frozen",
       make<LastBlocks>},
      {"highest blocks, 1/2", "half as many of them",
       [](Setup setup) -> std::unique_ptr<PlanSource> {
         return std::make_unique<LastBlocks>(std::move(setup), 0.5);
       }},
      {"highest blocks, later", "nothing is dropped in the first tenth of the steps, then the same",
       [](Setup setup) -> std::unique_ptr<PlanSource> {
         return std::make_unique<LastBlocks>(std::move(setup), 1.0, 0.1);
       }},
      {"highest blocks, floor", "the same, and each block below is kept in a tenth of the steps",
       [](Setup setup) {
         return make_rates(std::move(setup),
                           {.allocate = last_half_floor, .first = 0.0, .period = 0.0});
       }},
      {"highest blocks, 3/4", "three quarters of them",
       [](Setup setup) -> std::unique_ptr<PlanSource> {
         return std::make_unique<LastBlocks>(std::move(setup), 0.75);
       }},
      {"random cut", "the blocks above a random place are kept", make<RandomCut>},
      {"depth 16", "as depth, to the 16th power",
       [](Setup setup) {
         return make_rates(std::move(setup),
                           {.allocate = by_depth_16, .first = 0.0, .period = 0.0});
       }},
      {"LISA", "random blocks, held for a twentieth of the steps", make<RandomBlocks>},
      {"BAdam", "one half of the blocks after the other, each for a twentieth of the steps",
       make<CyclicBlocks>},
      {"AdaGradSelect", "blocks drawn by how often their gradients were largest",
       make<SelectedBlocks>},
      {"sharp 2", "sensitivities to the 2nd power", sharp<2>},
      {"sharp 8", "sensitivities to the 8th power", sharp<8>},
      {"sharp 32", "sensitivities to the 32nd power", sharp<32>},
      {"depth", "`SharpAllocation` of the blocks' numbers, from 1 below, instead of sensitivities",
       [](Setup setup) {
         return make_rates(std::move(setup), {.allocate = by_depth, .first = 0.0, .period = 0.0});
       }},
      {"variance", "`OptimalAllocation<ScaledVariance>` of running sensitivities",
       [](Setup setup) {
         return make_rates(std::move(setup),
                           {.allocate = by(dropbp::OptimalAllocation<dropbp::ScaledVariance>{})});
       }},
      {"stratified", "as adaptive, with each branch kept in its share of a step's micro-steps",
       [](Setup setup) -> std::unique_ptr<PlanSource> {
         return std::make_unique<Rates<dropbp::BernoulliSampling>>(
             std::move(setup), RateOptions{.allocate = by(dropbp::SharpAllocation{}),
                                           .first = 0.03,
                                           .complete_steps = true,
                                           .stratified = true});
       }},
      {"adaptive, end", "as adaptive, and nothing is dropped in the last tenth of the steps",
       [](Setup setup) {
         RateOptions options = adaptive_options();
         options.end = 0.1;
         return make_rates(std::move(setup), std::move(options));
       }},
      {"adaptive, middle", "as adaptive, with a rate that is highest in the middle of the run",
       [](Setup setup) {
         return adaptive_by(std::move(setup), [](double at) {
           return 0.5 * std::numbers::pi * std::sin(std::numbers::pi * at);
         });
       }},
      {"adaptive, rising", "as adaptive, with a rate that rises from 0",
       [](Setup setup) {
         return adaptive_by(std::move(setup), [](double at) { return 2.0 * at; });
       }},
      {"adaptive, falling", "as adaptive, with a rate that falls to 0",
       [](Setup setup) {
         return adaptive_by(std::move(setup), [](double at) { return 2.0 - 2.0 * at; });
       }},
      {"highest blocks, end", "nothing is dropped in the last tenth of the steps",
       [](Setup setup) -> std::unique_ptr<PlanSource> {
         return std::make_unique<LastBlocks>(std::move(setup), 1.0, 0.0, 0.1);
       }},
      {"highest blocks, 1/2, end", "half as many, and nothing is dropped in the last tenth",
       [](Setup setup) -> std::unique_ptr<PlanSource> {
         return std::make_unique<LastBlocks>(std::move(setup), 0.5, 0.0, 0.1);
       }},
      {"freezing", "the lowest blocks are frozen one after the other, in the course of the run",
       [](Setup setup) -> std::unique_ptr<PlanSource> {
         return std::make_unique<MovingCut>(std::move(setup), true);
       }},
      {"unfreezing", "from the highest block on, blocks begin to train one after the other",
       [](Setup setup) -> std::unique_ptr<PlanSource> {
         return std::make_unique<MovingCut>(std::move(setup), false);
       }},
      {.name = "adaptive, both moments",
       .text = "as adaptive; both moments of AdamW weigh gradients by their age in steps, also in "
               "steps without a gradient",
       .plans = adaptive,
       .moments = Moments::by_time},
      {.name = "adaptive, first moment",
       .text = "as adaptive; the first moment alone does",
       .plans = adaptive,
       .moments = Moments::first_by_time},
      {.name = "adaptive, second moment",
       .text = "as adaptive; the second moment alone does",
       .plans = adaptive,
       .moments = Moments::second_by_time},
      {.name = "adaptive, longer moment",
       .text =
           "as adaptive; the second moment is a mean of as many more updates as these are rarer",
       .plans = adaptive,
       .moments = Moments::longer_second},
      {.name = "adaptive, pause",
       .text = "as adaptive; an update is larger by the root of the steps since the last one",
       .plans = adaptive,
       .moments = Moments::step_by_pause},
      {.name = "uniform, both moments",
       .text = "as uniform; both moments of AdamW weigh gradients by their age in steps, also in "
               "steps without a gradient",
       .plans = uniform,
       .moments = Moments::by_time},
      {.name = "uniform, first moment",
       .text = "as uniform; the first moment alone does",
       .plans = uniform,
       .moments = Moments::first_by_time},
      {.name = "uniform, second moment",
       .text = "as uniform; the second moment alone does",
       .plans = uniform,
       .moments = Moments::second_by_time},
      {.name = "uniform, longer moment",
       .text = "as uniform; the second moment is a mean of as many more updates as these are rarer",
       .plans = uniform,
       .moments = Moments::longer_second},
      {.name = "uniform, pause",
       .text = "as uniform; an update is larger by the root of the steps since the last one",
       .plans = uniform,
       .moments = Moments::step_by_pause},
  };
  return table;
}

/// What is trained, on what, and for how long.
struct Regime {
  const char* name;
  llama::LlamaConfig shape;
  std::uint64_t pretraining_steps = 0;  ///< of 16 sequences
  std::string mode = "full";            ///< as for lora_of
  std::ptrdiff_t batch = 4, sequence = 128, micro_steps = 1;
  std::uint64_t steps = 200;
  double learning_rate = 2e-3;  ///< where the search begins
  double drop_rate = 0.5;
  bool given = false;     ///< the model is that of --model, and `shape` its config
  bool bfloat16 = false;  ///< weights and activations, otherwise float

  /// What decides a run beside its method, drop rate, learning rate, length and seed.
  std::string identity(const std::string& data) const {
    return fmt::format(
        "{} blocks, hidden {}, intermediate {}, heads {}; {}; {}; {} x {} x "
        "{} tokens; {} steps; {}",
        shape.layers, shape.hidden, shape.intermediate, shape.heads, origin(), mode, micro_steps,
        batch, sequence, steps, data);
  }

 private:
  std::string origin() const {
    if (given)
      return fmt::format("vocabulary {}, {}", shape.vocabulary, bfloat16 ? "bfloat16" : "float");
    return fmt::format("{} steps of pre-training", pretraining_steps);
  }
};

/// call.operator()<T>() with the scalar of the regime.
inline auto with_scalar(const Regime& regime, const auto& call) {
  return regime.bfloat16 ? call.template operator()<dropbp::BFloat16>()
                         : call.template operator()<float>();
}

inline const std::vector<Regime>& regimes() {
  static const llama::LlamaConfig small{
      .hidden = 32, .intermediate = 88, .layers = 8, .heads = 2, .kv_heads = 2},
      base{.hidden = 128, .intermediate = 344, .layers = 8, .heads = 4, .kv_heads = 4};
  static const std::vector<Regime> table{
      {.name = "tiny", .shape = small, .pretraining_steps = 1000, .sequence = 64},
      {.name = "tiny-4-micro-steps",
       .shape = small,
       .pretraining_steps = 1000,
       .sequence = 64,
       .micro_steps = 4,
       .steps = 100},
      {.name = "tiny-16-micro-steps",
       .shape = small,
       .pretraining_steps = 1000,
       .sequence = 64,
       .micro_steps = 16,
       .steps = 50},
      {.name = "full", .shape = base, .pretraining_steps = 1200},
      {.name = "full-p75", .shape = base, .pretraining_steps = 1200, .drop_rate = 0.75},
      {.name = "lora",
       .shape = base,
       .pretraining_steps = 1200,
       .mode = "lora",
       .learning_rate = 8e-3},
      {.name = "qlora",
       .shape = base,
       .pretraining_steps = 1200,
       .mode = "qlora",
       .learning_rate = 8e-3},
      {.name = "full-4-micro-steps", .shape = base, .pretraining_steps = 1200, .micro_steps = 4},
      {.name = "full-16-micro-steps", .shape = base, .pretraining_steps = 1200, .micro_steps = 16},
      {.name = "given-full",
       .shape = small,  // replaced by that of the model
       .batch = 2,
       .learning_rate = 1e-4,
       .drop_rate = 0.75,
       .given = true,
       .bfloat16 = true},
      {.name = "given-full-p50",
       .shape = small,  // replaced by that of the model
       .batch = 2,
       .learning_rate = 1e-4,
       .given = true,
       .bfloat16 = true},
      {.name = "given-lora",
       .shape = small,  // replaced by that of the model
       .mode = "lora",
       .batch = 2,
       .steps = 20,
       .learning_rate = 2e-3,
       .given = true,
       .bfloat16 = true},
  };
  return table;
}

}  // namespace bench
