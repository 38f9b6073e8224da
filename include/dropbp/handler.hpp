// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Drives the dropping of a whole model: plans for its steps, sensitivities, rates, counts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "dropbp/model.hpp"
#include "dropbp/plan.hpp"
#include "dropbp/policy/allocation.hpp"
#include "dropbp/policy/sampling.hpp"
#include "dropbp/policy/sensitivity.hpp"
#include "dropbp/report.hpp"
#include "dropbp/schedule.hpp"
#include "dropbp/state.hpp"

DROPBP_NAMESPACE_BEGIN

/// Tells the layers of a model, before each step, whose backward pass is dropped. Keeps a reference to the model, which
/// must outlive it and keep the number of its layers; the layers may move in memory between calls.
/// Branches are numbered in the order in which model.for_each_layer visits them.
template <Model ModelType, Allocation AllocationPolicy = GreedyAllocation, Sampling SamplingPolicy = BernoulliSampling>
class DropBPHandler {
 public:
  /// Throws std::invalid_argument for a model without layers, FLOPs that are not positive, or a rate outside [0, 1].
  explicit DropBPHandler(ModelType& model, DropOptions options = {}, AllocationPolicy allocation = {},
                         SamplingPolicy sampling = {})
      : model_(&model),
        schedule_(layer_flops(model), options, std::move(sampling)),
        allocation_(std::move(allocation)),
        working_space_(schedule_.size()),
        has_gradient_(schedule_.size()),
        kept_(schedule_.size()),
        dropped_(schedule_.size()) {
    for_each_branch([](auto& layer, std::size_t) { layer.set_calls({}); });
  }

  // ---- steps

  /// Draws the plan of an optimizer step's first micro-step and tells every layer. Call it before the forward pass.
  void begin_step(std::uint64_t step) {
    schedule_.draw(step, 0, working_space_, plan_);
    start(true);
  }

  /// The next micro-step of the same optimizer step, counted from 0 (begin_step has begun number 0).
  void begin_micro_step(std::uint32_t micro_step) {
    if (micro_step == 0) return begin_step(step_);
    schedule_.draw(step_, micro_step, working_space_, plan_);
    start(false);
  }

  /// A step with a plan from elsewhere. Throws std::invalid_argument for one of another size.
  void begin_step(const DropPlan& plan) {
    detail::require_count(plan.size(), size(), "decision in a plan");
    plan_ = plan;
    start(true);
  }

  /// Until the next begin_step, forward passes save nothing and no backward may follow: for validation losses.
  void begin_evaluation() {
    ++stamp_;
    for_each_branch([&](auto& layer, std::size_t) { layer.decide({.saves = false, .stamp = stamp_}); });
  }

  /// The plan of the micro-step begun last.
  const DropPlan& plan() const noexcept { return plan_; }

  /// Whether that plan keeps no branch at all.
  bool all_dropped() const noexcept { return plan_.all_dropped(); }

  /// Whether the branches need a backward pass: one is kept, or something below them trains.
  bool backward_needed() const noexcept { return plan_.backward_needed(); }

  /// Whether a branch was kept in any micro-step since begin_step: its parameters have a gradient, and the optimizer
  /// must leave those of all other branches alone, their moments and decay too.
  bool has_gradient(std::size_t branch) const {
    static_cast<void>(plan_.dropped(branch));  // checks the number
    return has_gradient_[branch] != 0;
  }

  // ---- rates

  std::size_t size() const noexcept { return schedule_.size(); }
  const DropSchedule<SamplingPolicy>& schedule() const noexcept { return schedule_; }
  double drop_rate() const noexcept { return schedule_.drop_rate(); }
  std::span<const double> drop_rates() const noexcept { return schedule_.drop_rates(); }
  std::span<const double> flops() const noexcept { return schedule_.flops(); }

  /// See DropSchedule::learning_rate_scale.
  double learning_rate_scale(std::size_t branch) const { return schedule_.learning_rate_scale(branch); }

  /// One rate for all branches from the next begin_step on.
  void set_drop_rate(double rate) { schedule_.set_drop_rate(rate); }

  /// A rate for each branch from the next begin_step on.
  void set_drop_rates(std::span<const double> rates) { schedule_.set_drop_rates(rates); }

  /// Reads the layers' FLOPs again, for example after the sequence length changed.
  void update_flops() { schedule_.set_flops(layer_flops(*model_)); }

  /// The sensitivities measured or given last; empty before.
  std::span<const double> sensitivities() const noexcept { return sensitivities_; }

  /// Measures the sensitivity of every branch. `backprop()` clears the gradients, then runs one forward and backward
  /// pass on the same data every time; it is called size() + 1 times, first with nothing dropped, then with one branch
  /// dropped at a time. Rates, counts and random generators are left alone; the gradients are those of the last pass.
  /// Call it between two steps: the next forward pass must come after a begin_step.
  /// Throws whatever backprop throws, and std::runtime_error when a gradient is not finite.
  template <class Backprop, Sensitivity SensitivityPolicy = GradientNormSensitivity>
  std::vector<double> measure_sensitivities(Backprop&& backprop, const SensitivityPolicy& policy = {}) {
    static_assert(GradientModel<ModelType>,
                  "dropbp: measuring sensitivities needs a model with for_each_gradient(visit), which visits the gradient "
                  "of every trained parameter tensor.");
    const Measurement restore(*this);
    drop_only(size());
    backprop();
    const typename SensitivityPolicy::Reference reference = policy.reference(*model_);
    std::vector<double> sensitivities(size());
    for (std::size_t i = 0; i < size(); ++i) {
      drop_only(i);
      backprop();
      sensitivities[i] = policy.difference(reference, *model_);
      if (!detail::is_finite(sensitivities[i]))
        throw std::runtime_error(detail::sentence("gradients must be finite while sensitivities are measured",
                                                  "that of branch " + detail::text(i) + " is " +
                                                      detail::text(sensitivities[i]),
                                                  "look at the loss and its scale"));
    }
    return sensitivities;
  }

  /// Rates from given sensitivities, one a branch. Throws std::invalid_argument, with the rates as they were, for wrong
  /// ones or a target rate that the allocation policy cannot reach.
  void allocate(std::span<const double> sensitivities) {
    std::vector<double> copy(sensitivities.begin(), sensitivities.end());
    schedule_.allocate(sensitivities, allocation_);
    sensitivities_ = std::move(copy);
  }

  /// measure_sensitivities, then allocate. The published recipe does this once, at 10 % of the training, on one sample.
  template <class Backprop, Sensitivity SensitivityPolicy = GradientNormSensitivity>
  std::span<const double> allocate_by_sensitivity(Backprop&& backprop, const SensitivityPolicy& policy = {}) {
    allocate(measure_sensitivities(std::forward<Backprop>(backprop), policy));
    return sensitivities();
  }

  // ---- accounts

  /// How many micro-steps have dropped each branch.
  std::span<const std::uint64_t> drop_counts() const noexcept { return dropped_; }

  Report report() const {
    Report report;
    report.micro_steps = micro_steps_;
    report.branches.resize(size());
    for_each_branch([&](auto& layer, std::size_t i) {
      report.branches[i] = {flops()[i], drop_rates()[i], kept_[i], dropped_[i], layer.calls()};
    });
    return report;
  }

  HandlerState state() const {
    HandlerState state{.seed = schedule_.options().seed,
                       .plan_per = schedule_.options().plan_per,
                       .step = step_,
                       .micro_steps = micro_steps_,
                       .drop_rate = drop_rate(),
                       .drop_rates = {drop_rates().begin(), drop_rates().end()},
                       .sensitivities = sensitivities_,
                       .kept = kept_,
                       .dropped = dropped_,
                       .calls = std::vector<BranchCalls>(size())};
    for_each_branch([&](auto& layer, std::size_t i) { state.calls[i] = layer.calls(); });
    return state;
  }

  /// Goes on from a saved state: the next begin_step(step) draws what it would have drawn then. Throws
  /// std::invalid_argument, with everything as it was, for a state of another model or with impossible rates.
  void restore(const HandlerState& state) {
    detail::require_count(state.kept.size(), size(), "kept count in a state");
    detail::require_count(state.dropped.size(), size(), "dropped count in a state");
    detail::require_count(state.calls.size(), size(), "call count in a state");
    if (!state.sensitivities.empty()) detail::require_count(state.sensitivities.size(), size(), "sensitivity in a state");
    DropSchedule<SamplingPolicy> schedule = schedule_;
    schedule.restore(state.seed, state.plan_per, state.drop_rate, state.drop_rates);
    HandlerState copy = state;
    for_each_branch([](auto&, std::size_t) {});  // throws now, not below, where the model's layers have changed
    schedule_ = std::move(schedule);
    sensitivities_ = std::move(copy.sensitivities);
    kept_ = std::move(copy.kept);
    dropped_ = std::move(copy.dropped);
    step_ = state.step;
    micro_steps_ = state.micro_steps;
    for_each_branch([&](auto& layer, std::size_t i) { layer.set_calls(state.calls[i]); });
  }

 private:
  template <class Visit>
  static std::size_t visit_layers(ModelType& model, Visit visit) {
    std::size_t count = 0;
    model.for_each_layer([&](DroppableLayer auto& layer) { visit(layer, count++); });
    return count;
  }

  static std::vector<double> layer_flops(ModelType& model) {
    std::vector<double> flops;
    visit_layers(model, [&](auto& layer, std::size_t) { flops.push_back(static_cast<double>(layer.flops())); });
    return flops;
  }

  template <class Visit>
  void for_each_branch(Visit visit) const {
    const std::size_t count = visit_layers(*model_, [&](auto& layer, std::size_t i) {
      if (i < size()) visit(layer, i);
    });
    if (count != size())
      detail::throw_order("a model must keep the layers that its handler was made for (" + detail::text(size()) + ")",
                          "for_each_layer visited " + detail::text(count), "make a new handler for the changed model");
  }

  void tell_layers(const DropPlan& plan) {
    ++stamp_;
    for_each_branch([&](auto& layer, std::size_t i) {
      layer.decide({.dropped = plan.dropped(i),
                    .saves = true,
                    .input_gradient_needed = plan.input_gradient_needed(i),
                    .stamp = stamp_});
    });
  }

  void start(bool first) {
    tell_layers(plan_);
    step_ = plan_.step();
    ++micro_steps_;
    for (std::size_t i = 0; i < size(); ++i) {
      const bool kept = plan_.kept(i);
      ++(kept ? kept_ : dropped_)[i];
      has_gradient_[i] = static_cast<std::uint8_t>(kept || (!first && has_gradient_[i] != 0));
    }
  }

  // Branch `dropped` alone; size() for none.
  void drop_only(std::size_t dropped) {
    for (std::size_t i = 0; i < size(); ++i) working_space_[i] = i == dropped;
    tell_layers(DropPlan(working_space_, true));
  }

  // Puts counts and decisions back, whether the measurement ends well or throws.
  class Measurement {
   public:
    explicit Measurement(DropBPHandler& handler) : handler_(handler), calls_(handler.state().calls) {}
    Measurement(const Measurement&) = delete;
    Measurement& operator=(const Measurement&) = delete;
    ~Measurement() {
      ++handler_.stamp_;
      std::size_t i = 0;
      visit_layers(*handler_.model_, [&](auto& layer, std::size_t) {
        if (i < calls_.size()) layer.set_calls(calls_[i++]);
        layer.decide({.stamp = handler_.stamp_});
      });
    }

   private:
    DropBPHandler& handler_;
    std::vector<BranchCalls> calls_;
  };

  ModelType* model_;
  DropSchedule<SamplingPolicy> schedule_;
  [[no_unique_address]] AllocationPolicy allocation_;
  DropPlan plan_;
  std::vector<std::uint8_t> working_space_;
  std::vector<std::uint8_t> has_gradient_;
  std::vector<double> sensitivities_;
  std::vector<std::uint64_t> kept_;
  std::vector<std::uint64_t> dropped_;
  std::uint64_t step_ = 0;
  std::uint64_t micro_steps_ = 0;
  std::uint64_t stamp_ = 0;
};

DROPBP_NAMESPACE_END
