// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// One run of `convergence`, and the processor time of the parts of a step.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <filesystem>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <dropbp/ops/adamw.hpp>

#include "benchmark.hpp"
#include "convergence/methods.hpp"
#include "llama/app/data.hpp"
#include "llama/app/learning_rate.hpp"
#include "llama/model/model.hpp"
#include "modes.hpp"

namespace bench {

/// Processor seconds of the parts of an optimizer step of one micro-step: a step takes `fixed` +
/// (share of the branches' backward work that is kept) * `branches` + (share of the parameters that
/// are updated) * `optimizer`.
struct StepParts {
  double fixed = 0.0, branches = 0.0, optimizer = 0.0;
};

/// How much of the gain of a first step remains. Its gain is what a step of the branches along the
/// signs of one batch's gradient, as AdamW's first step, lowers the loss of other batches by, to
/// first order.
struct FirstSteps {
  double half = 0.0, quarter = 0.0;  ///< share that the highest half and quarter of the blocks have
  double uniform = 0.0;              ///< that of all branches that uniform rates of 0.5 keep
  double kept = 0.0;  ///< the same, divided by the gain of these branches if nothing is dropped
};

/// What a run did. Its time follows from this and StepParts, so that a busy machine does not change
/// it.
struct Outcome {
  double validation_loss = 0.0;
  std::uint64_t steps = 0;
  double backward = 0.0;      ///< sum over the micro-steps of the kept share of the branches' work
  double updated = 0.0;       ///< sum over the steps of the updated share of the parameters
  double measurements = 0.0;  ///< of sensitivities, each on one sequence
  double peak_activations = 0.0, mean_activations = 0.0;  ///< share of what all branches save
  std::vector<double> kept;                               ///< share of the micro-steps, by branch

  double seconds(const StepParts& parts, std::ptrdiff_t micro_steps, std::ptrdiff_t batch) const {
    const double branches = static_cast<double>(kept.size());
    return static_cast<double>(steps * static_cast<std::uint64_t>(micro_steps)) * parts.fixed +
           backward * parts.branches + updated * parts.optimizer +
           measurements * (parts.fixed + parts.branches * (branches + 1.0) / 2.0) /
               static_cast<double>(batch);
  }
};

/// A model with its handler, optimizer and data. T: float or BFloat16.
template <class T>
class Training {
  using Model = llama::LlamaModel<T>;

 public:
  /// `base` is the folder of the pre-trained model, `data` outlives this.
  Training(const Regime& regime, const Method& method, const std::filesystem::path& base,
           const llama::TrainingData& data, std::uint64_t seed)
      : regime_(regime),
        moments_(method.moments),
        batch_options_({.batch = std::max<std::ptrdiff_t>(
                            1, std::lround(method.batch * static_cast<double>(regime.batch))),
                        .sequence = regime.sequence,
                        .micro_steps = regime.micro_steps,
                        .seed = seed}),
        model_(regime.shape, regime.sequence, {.lora = lora_of(regime.mode)}),
        handler_(model_, {.drop_rate = 0.0, .trainable_below = model_.trainable_below()}),
        optimizer_(model_.parameters(),
                   {.learning_rate = 0.0, .beta1 = 0.9, .beta2 = 0.95, .weight_decay = 0.1}),
        source_(data.training(batch_options_)) {
    // The same text for every batch size.
    llama::BatchOptions evaluation = batch_options_;
    evaluation.eval_batches = 24 * regime.batch / evaluation.batch;
    validation_ = data.validation(evaluation);
    for (auto* parameter : model_.parameters()) {
      const std::string_view name = parameter->parts().front().name;
      parameter->decays = !name.ends_with("norm.weight") && !name.ends_with(".bias");
      if (parameter->trained) parameters_ += static_cast<double>(parameter->size());
    }
    branch_of_parameter_.assign(model_.parameters().size(), handler_.size());
    std::size_t branch = 0;
    model_.for_each_layer([&](auto& layer) {
      layer.op().for_each_parameter([&](const auto& parameter) {
        for (std::size_t i = 0; i < branch_of_parameter_.size(); ++i)
          if (model_.parameters()[i] == &parameter) branch_of_parameter_[i] = branch;
      });
      ++branch;
    });
    llama::load_weights(base, model_);
    model_.initialize_adapters(seed);
    handler_.observe_stream();
    for (std::size_t i = 0; i < handler_.size(); ++i) {
      all_backward_ += model_.backward_flops(i, true);
      all_saved_ += static_cast<double>(model_.saved_bytes(i, tokens()));
    }
  }

  Setup setup(std::uint64_t steps) const {
    return {.costs = {handler_.costs().begin(), handler_.costs().end()},
            .steps = steps,
            .seed = batch_options_.seed,
            .drop_rate = regime_.drop_rate,
            .trainable_below = model_.trainable_below()};
  }

  Outcome run(PlanSource& plans, std::uint64_t steps, double learning_rate) {
    set_learning_rate(learning_rate);
    llama::Options schedule;
    schedule.steps = steps;
    schedule.warmup = steps / 10;
    Outcome outcome;
    outcome.steps = steps;
    for (std::uint64_t step = 0; step < steps; ++step) {
      if (plans.measures_at(step)) {
        measure(plans, step);
        outcome.measurements += 1.0;
      }
      model_.clear_gradients();
      for (std::uint32_t micro = 0; std::cmp_less(micro, regime_.micro_steps); ++micro)
        pass(plans.plan(step, micro), outcome);
      update(plans, llama::learning_rate_scale(schedule, step), outcome);
    }
    const double passes = static_cast<double>(steps) * static_cast<double>(regime_.micro_steps);
    outcome.mean_activations /= passes;
    for (const std::uint64_t dropped : handler_.drop_counts())
      outcome.kept.push_back(1.0 - static_cast<double>(dropped) / passes);
    outcome.validation_loss = validate();
    return outcome;
  }

  /// The means over `rounds` batches, on twice as many others.
  FirstSteps measure_first_steps(std::uint64_t rounds) {
    Setup given = setup(3 * rounds);
    given.drop_rate = 0.5;
    Complete complete(given);
    Rates<dropbp::BernoulliSampling> uniform(given, {});
    const auto& parameters = optimizer_.parameters();
    // visit(branch, values of the gradient, sums) of the branches' parameters
    std::vector<std::vector<float>> sums(parameters.size());
    const auto for_each_gradient = [&](const dropbp::DropPlan& plan, const auto& visit) {
      Outcome unused;
      model_.clear_gradients();
      pass(plan, unused);
      for (std::size_t i = 0; i < sums.size(); ++i) {
        const std::size_t branch = branch_of_parameter_[i];
        if (branch == handler_.size() || !parameters[i]->trained) continue;
        sums[i].resize(parameters[i]->size());
        if (parameters[i]->has_gradient()) visit(branch, parameters[i]->gradient().data, sums[i]);
      }
    };
    for (std::uint64_t step = rounds; step < 3 * rounds; ++step)
      for_each_gradient(complete.plan(step, 0), [](std::size_t, const T* values, auto& sum) {
        for (std::size_t k = 0; k < sum.size(); ++k) sum[k] += dropbp::to_float(values[k]);
      });
    double all = 0.0, of_kept = 0.0;
    FirstSteps shares;
    for (std::uint64_t step = 0; step < rounds; ++step) {
      std::vector<double> gains(handler_.size());
      const auto add_gain = [&](std::size_t branch, const T* values, const auto& sum) {
        for (std::size_t k = 0; k < sum.size(); ++k) {
          const float value = dropbp::to_float(values[k]);
          if (value != 0.0F) gains[branch] += std::copysign(1.0F, value) * sum[k];
        }
      };
      const dropbp::DropPlan plan = uniform.plan(step, 0);
      for_each_gradient(plan, add_gain);
      shares.uniform += std::accumulate(gains.begin(), gains.end(), 0.0);
      std::fill(gains.begin(), gains.end(), 0.0);
      for_each_gradient(complete.plan(step, 0), add_gain);
      for (std::size_t i = 0; i < gains.size(); ++i) {
        all += gains[i];
        if (2 * i >= gains.size()) shares.half += gains[i];
        if (4 * i >= 3 * gains.size()) shares.quarter += gains[i];
        if (!plan.dropped(i)) of_kept += gains[i];
      }
    }
    return {shares.half / all, shares.quarter / all, shares.uniform / all,
            shares.uniform / of_kept};
  }

  /// The least of `rounds`, which processes beside this one disturb least.
  StepParts measure_parts(int rounds) {
    StepParts least{1e9, 1e9, 1e9};
    const std::vector<std::uint8_t> none(handler_.size(), 0), all(handler_.size(), 1);
    const auto seconds = [](const auto& call) {
      const double start = processor_seconds();
      call();
      return processor_seconds() - start;
    };
    set_learning_rate(0.0);
    double complete = 1e9;
    for (int round = 0; round < rounds; ++round) {
      Outcome unused;
      const auto number = static_cast<std::uint64_t>(round);
      model_.clear_gradients();
      least.fixed =
          std::min(least.fixed, seconds([&] {
                     pass(dropbp::DropPlan(all, model_.trainable_below(), 2 * number), unused);
                   }));
      model_.clear_gradients();
      complete =
          std::min(complete, seconds([&] {
                     pass(dropbp::DropPlan(none, model_.trainable_below(), 2 * number + 1), unused);
                   }));
      Complete nothing(setup(1));
      least.optimizer = std::min(least.optimizer, seconds([&] { update(nothing, 1.0, unused); }));
    }
    least.branches = complete - least.fixed;
    return least;
  }

 private:
  static double processor_seconds() {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  }

  llama::Index tokens() const { return batch_options_.batch * batch_options_.sequence; }

  void set_learning_rate(double learning_rate) {
    dropbp::ops::AdamWOptions options = optimizer_.options();
    options.learning_rate = learning_rate;
    optimizer_.set_options(options);
  }

  void pass(const dropbp::DropPlan& plan, Outcome& outcome) {
    source_->fill(plan.step(), plan.micro_step(), batch_);
    if (plan.micro_step() == 0)
      handler_.begin_step(plan);
    else
      handler_.begin_micro_step(plan);
    model_.set_micro_step(
        {.seed = batch_options_.seed, .step = plan.step(), .micro_step = plan.micro_step()});
    const double loss =
        handler_.backward_needed() ? model_.loss_and_gradients(batch_) : model_.loss(batch_);
    if (!std::isfinite(loss)) diverged_ = true;
    double backward = 0.0, saved = 0.0;
    for (std::size_t i = 0; i < plan.size(); ++i) {
      if (plan.dropped(i)) continue;
      backward += model_.backward_flops(i, plan.input_gradient_needed(i));
      saved += static_cast<double>(model_.saved_bytes(i, tokens()));
    }
    outcome.backward += backward / all_backward_;
    outcome.mean_activations += saved / all_saved_;
    outcome.peak_activations = std::max(outcome.peak_activations, saved / all_saved_);
  }

  void update(PlanSource& plans, double scale, Outcome& outcome) {
    const std::vector<double> norms =
        dropbp::ops::squared_gradient_norms<T>(optimizer_.parameters());
    const double norm = dropbp::ops::global_norm(norms);
    if (!std::isfinite(norm)) diverged_ = true;
    if (diverged_) return;  // the weights stay, and the loss of the run is that of these weights
    std::vector<double> of_branches(handler_.size() + 1);
    for (std::size_t i = 0; i < norms.size(); ++i) of_branches[branch_of_parameter_[i]] += norms[i];
    of_branches.pop_back();
    plans.observe(of_branches, [&](dropbp::RunningSensitivity& running) {
      handler_.observe_gradients(running, of_branches);
    });
    double updated = 0.0;
    for (const auto* parameter : optimizer_.parameters())
      if (parameter->trained && parameter->has_gradient())
        updated += static_cast<double>(parameter->size());
    outcome.updated += updated / parameters_;
    const double factor = dropbp::ops::clip_factor(norm, 1.0);
    if (moments_ == Moments::by_update)
      optimizer_.step(factor, scale);
    else
      step_by_time(factor, scale);
  }

  // AdamW whose moments are means of the gradients with weights by their age in steps, also of the
  // steps in which a parameter had no gradient. The library's AdamW takes it as decays of each
  // update: with the weight c of what is older, its decay is c / (c + 1 - beta), and c begins at 0.
  void step_by_time(double factor, double scale) {
    const auto parameters = optimizer_.parameters();
    weights_.resize(parameters.size());
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      dropbp::ops::AdamWOptions options = optimizer_.options();
      options.learning_rate *= scale;
      Weights& weights = weights_[i];
      ++weights.age;
      if (!parameters[i]->trained || !parameters[i]->has_gradient()) continue;
      const bool second = moments_ != Moments::first_by_time;
      const bool first = moments_ != Moments::second_by_time && moments_ != Moments::longer_second;
      const double kept = 1.0 / static_cast<double>(weights.age);
      if (moments_ == Moments::longer_second) {
        weights.share = weights.share == 0.0 ? 1.0 : 0.9 * weights.share + 0.1 * kept;
        options.beta2 = 1.0 - (1.0 - options.beta2) * weights.share;
      }
      if (moments_ == Moments::step_by_pause)
        options.learning_rate *= std::sqrt(static_cast<double>(weights.age));
      const auto age = static_cast<double>(weights.age);
      const bool by_time = moments_ != Moments::longer_second && moments_ != Moments::step_by_pause;
      options.beta1 = decay(options.beta1, first && by_time ? age : 1.0, weights.first);
      options.beta2 = decay(options.beta2, second && by_time ? age : 1.0, weights.second);
      weights.age = 0;
      auto& state = optimizer_.state(i);
      state.steps = std::uint64_t{1} << 40;  // the decays have the bias correction
      dropbp::ops::adamw_update(*parameters[i], state, options, factor);
    }
  }
  static double decay(double beta, double age, double& weight) {
    const double older = std::pow(beta, age) * weight;
    weight = older + 1.0 - beta;
    return older / weight;
  }

  // On one sequence, as in the published recipe.
  void measure(PlanSource& plans, std::uint64_t step) {
    source_->fill(step, 0, batch_);
    model_.set_micro_step({.seed = batch_options_.seed, .step = step});
    const llama::Batch sample = llama::row_of(batch_, 0);
    llama::BranchwisePass<T> pass(model_, sample);
    plans.measured(handler_.measure_sensitivities_branchwise(pass));
  }

  double validate() {
    if (validation_ == nullptr) throw std::runtime_error("there is no text to validate on");
    handler_.begin_evaluation();
    model_.set_micro_step({.training = false});
    double loss = 0.0;
    for (std::size_t i = 0; i < validation_->batches(); ++i) {
      validation_->fill(i, batch_);
      loss += model_.loss(batch_);
    }
    return diverged_ || !std::isfinite(loss) ? 1e3 : loss;
  }

  struct Weights {
    double first = 0.0, second = 0.0;  ///< sums of the weights of all gradients so far
    std::uint64_t age = 0;             ///< steps since the last update
    double share = 0.0;                ///< of the steps with a gradient
  };

  Regime regime_;
  Moments moments_;
  std::vector<Weights> weights_;
  llama::BatchOptions batch_options_;
  Model model_;
  dropbp::DropBPHandler<Model> handler_;
  dropbp::ops::AdamW<T> optimizer_;
  std::unique_ptr<llama::BatchSource> source_;
  std::unique_ptr<llama::EvaluationSource> validation_;
  llama::Batch batch_;
  std::vector<std::size_t> branch_of_parameter_;
  double parameters_ = 0.0, all_backward_ = 0.0, all_saved_ = 0.0;
  bool diverged_ = false;
};

}  // namespace bench
