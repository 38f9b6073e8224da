// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// DropBPHandler: steps, drop rates and state of a whole model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "dropbp/base/view.hpp"
#include "dropbp/branches.hpp"
#include "dropbp/dropbp_fwd.hpp"
#include "dropbp/model.hpp"
#include "dropbp/plan.hpp"
#include "dropbp/policy/allocation.hpp"
#include "dropbp/policy/running_sensitivity.hpp"
#include "dropbp/policy/sampling.hpp"
#include "dropbp/policy/sensitivity.hpp"
#include "dropbp/report.hpp"
#include "dropbp/schedule.hpp"
#include "dropbp/sensitivity/branchwise.hpp"
#include "dropbp/sensitivity/complete.hpp"
#include "dropbp/sensitivity/measured_costs.hpp"
#include "dropbp/sensitivity/running.hpp"
#include "dropbp/state.hpp"

DROPBP_NAMESPACE_BEGIN

/// Decides before each step which branches of a model drop their backward pass, and tells the
/// layers. Holds a reference to the model, which must outlive it and keep its number of layers; the
/// layers may move in memory between calls. Branches are numbered in the order in which
/// model.for_each_layer visits them. Calls in the wrong order throw std::logic_error.
template <class ModelType, class AllocationPolicy, class SamplingPolicy>
class DropBPHandler {
  static_assert(
      Model<ModelType>,
      "dropbp: a handler's model needs for_each_layer(visit), which calls visit(layer) with a "
      "reference to every DropBPLayer. It must be public, and the model not constant.");
  static_assert(Allocation<AllocationPolicy>,
                "dropbp: a handler's second type and third argument is an allocation policy: a "
                "copyable type with std::vector<double> allocate(const AllocationInput&) const. "
                "GreedyAllocation{} is the default; a sampling policy comes after it.");
  static_assert(
      Sampling<SamplingPolicy>,
      "dropbp: a handler's third type and fourth argument is a sampling policy: a copyable type "
      "with a copyable, default-constructible type Prepared, Prepared prepare(const "
      "SamplingInput&) const and draw(const Prepared&, const CounterRandom&, "
      "std::span<std::uint8_t> dropped) const. BernoulliSampling{} is the default.");

 public:
  /// Throws std::invalid_argument for a model without layers, costs that are not positive, or a
  /// rate outside [0, 1].
  explicit DropBPHandler(ModelType& model, DropOptions options = {},
                         AllocationPolicy allocation = {}, SamplingPolicy sampling = {})
      : schedule_(detail::layer_costs(model), std::move(options), std::move(sampling)),
        branches_(model, schedule_.size()),
        allocation_(std::move(allocation)),
        scales_(schedule_.size(), 1.0),
        counts_(schedule_.size()) {
    // No step allocates: the two plans take turns in the same memory.
    for (DropPlan* const plan : {&plan_, &next_plan_})
      detail::PlanBuilder::reserve(*plan, size(), detail::view(schedule_.options().groups));
    next_scales_.reserve(size());
    branches_.for_each([](auto& layer, std::size_t) { layer.set_calls(BranchCalls{}); });
    branches_.update_trainable(schedule_);
    if (!detail::needs_sensitivities(allocation_)) allocate();
  }

  // ---- steps

  /// Begins an optimizer step: draws the plan of its first micro-step and tells every layer. Call
  /// it before the forward pass. An operation with trainable() is asked in every step; for the
  /// others DropOptions::trainable applies. Throws std::invalid_argument for step 2^64 - 1, which
  /// has no next step.
  void begin_step(std::uint64_t step) {
    require_no_measurement();
    detail::require_next_step(step);
    branches_.require_unchanged();
    branches_.update_trainable(schedule_);
    schedule_.draw(step, 0, next_plan_);
    schedule_.gradient_scales(step, next_scales_);
    start(true);
  }

  /// Begins the next micro-step of the same optimizer step (gradient accumulation): 1, then 2 and
  /// so on; begin_step begins number 0. With PlanPer::step, the decisions of the last one are kept.
  void begin_micro_step(std::uint32_t micro_step) {
    require_no_measurement();
    require_begun();
    detail::require_later_micro_step(micro_step, plan_);
    branches_.require_unchanged();
    if (schedule_.options().plan_per == PlanPer::step) {
      detail::require_micro_step(micro_step);
      next_plan_ = plan_;
      detail::PlanBuilder::set_micro_step(next_plan_, micro_step);
      next_scales_ = scales_;
    } else {
      schedule_.draw(plan_.step(), micro_step, next_plan_);
      schedule_.gradient_scales(plan_.step(), next_scales_);
    }
    start(false);
  }

  /// Begins a step with a given plan. Throws std::invalid_argument if the plan has another size, is
  /// of step 2^64 - 1, or was made without the handler's DropOptions::parents, and std::logic_error
  /// if it was never drawn.
  void begin_step(const DropPlan& plan) {
    require_no_measurement();
    detail::require_next_step(plan.step());
    require_plan(plan);
    next_plan_ = plan;
    schedule_.gradient_scales(plan.step(), next_scales_);
    start(true);
  }

  /// The same with a given plan, also with PlanPer::step. Throws as begin_step(plan) does, and
  /// std::logic_error for a plan of another step or of a micro-step that is not a later one.
  void begin_micro_step(const DropPlan& plan) {
    require_no_measurement();
    require_begun();
    require_plan(plan);
    detail::require_micro_step_of(plan, plan_);
    next_plan_ = plan;
    schedule_.gradient_scales(plan.step(), next_scales_);
    start(false);
  }

  /// Begins an evaluation, for validation losses: until the next begin_step, forward passes save
  /// nothing and no backward may follow.
  void begin_evaluation() {
    require_no_measurement();
    branches_.require_unchanged();
    branches_.tell_evaluation();
    phase_ = Phase::evaluating;
  }

  /// The plan of the last begun micro-step; empty before the first begin_step.
  const DropPlan& plan() const noexcept { return plan_; }

  bool all_dropped() const noexcept { return plan_.all_dropped(); }  ///< the plan keeps no branch

  /// Whether the branches need a backward pass: one is kept, or something below them is trainable.
  bool backward_needed() const noexcept { return plan_.backward_needed(); }

  /// Whether the branch is trainable and was kept in any micro-step since begin_step, so that its
  /// parameters have a gradient. The optimizer must skip the parameters of all other branches,
  /// including their moments and weight decay.
  bool has_gradient(std::size_t branch) const {
    require_begun();
    static_cast<void>(plan_.dropped(branch));  // checks the index
    return counts_.kept_in_step[branch] != 0 && schedule_.trainable(branch);
  }

  // ---- rates

  std::size_t size() const noexcept { return schedule_.size(); }  ///< number of branches
  /// The schedule that draws the plans.
  const DropSchedule<SamplingPolicy>& schedule() const noexcept { return schedule_; }
  double drop_rate() const noexcept { return schedule_.drop_rate(); }  ///< the target rate P
  /// Drop rate of each branch.
  std::span<const double> drop_rates() const noexcept { return schedule_.drop_rates(); }
  /// Cost of each branch.
  std::span<const double> costs() const noexcept { return schedule_.costs(); }

  /// See DropSchedule::learning_rate_scale.
  double learning_rate_scale(std::size_t branch) const {
    return schedule_.learning_rate_scale(branch);
  }

  /// Sets one rate for all branches from the next draw on: the next begin_step or, with
  /// PlanPer::micro_step, begin_micro_step. Throws std::logic_error during a measurement, as do all
  /// functions that change rates or costs.
  void set_drop_rate(double rate) {
    require_not_measuring();
    schedule_.set_drop_rate(rate);
  }

  /// Sets a rate for each branch from the next draw on.
  void set_drop_rates(std::span<const double> rates) {
    require_not_measuring();
    schedule_.set_drop_rates(rates);
  }

  /// Reads the layers' costs again, for example after the sequence length changed.
  void update_costs() {
    require_not_measuring();
    const std::vector<double> costs = detail::layer_costs(branches_.model());
    schedule_.set_costs(detail::view(costs));
  }

  /// Replaces the layers' costs by `costs`, in any common unit: seconds from measure_costs, say.
  void set_costs(std::span<const double> costs) {
    require_not_measuring();
    schedule_.set_costs(costs);
  }

  /// The sensitivities measured or given last; empty if there are none yet.
  std::span<const double> sensitivities() const noexcept { return detail::view(sensitivities_); }

  /// Measures the sensitivity of every branch. `backprop()` clears the gradients, then runs one
  /// forward and backward pass on the same data every time; it is called size() + 1 times, first
  /// with nothing dropped, then with one branch dropped at a time. Plan, rates, counts and random
  /// generators are unchanged; afterwards the gradients are those of the last pass, and activations
  /// saved before the measurement are released. Average over several samples by measuring several
  /// times. Throws the exceptions of backprop, std::runtime_error if a gradient is not finite, and
  /// std::logic_error if backprop begins a step, changes rates or costs, or runs none of the
  /// model's layers; the handler is then unchanged. If for_each_layer throws while the layers are
  /// restored, the next begin_step, begin_evaluation, measurement or restore restores them: call
  /// one of these before the next pass.
  template <class Backprop, class SensitivityPolicy = GradientNormSensitivity>
  std::vector<double> measure_sensitivities(Backprop&& backprop,
                                            const SensitivityPolicy& policy = {}) {
    return detail::measure_complete(*this, backprop, policy);
  }

  /// The same with a single forward pass, for models whose branches can run backward one at a time
  /// (no nested branches: DropOptions::parents). It takes a third of the time (1/2.8 for 16
  /// branches, 1/2.95 for 64) if all weights are trained. `pass` has the members forward, backward,
  /// backward_below and clear_gradients, which sensitivity/branchwise.hpp describes. The operations
  /// have `static constexpr bool backward_is_repeatable = true`: their backward leaves Saved
  /// unchanged. Peak memory: what all branches save, size() + 1 gradients of the residual stream,
  /// and the policy's reference.
  template <class Pass, class SensitivityPolicy = GradientNormSensitivity>
  std::vector<double> measure_sensitivities_branchwise(Pass&& pass,
                                                       const SensitivityPolicy& policy = {}) {
    return detail::measure_branchwise(*this, pass, policy);
  }

  /// Measures the seconds of each branch, without the branches nested in it: the fastest of
  /// `passes` calls of backprop with nothing dropped. `now()` returns seconds as a double:
  /// SteadyClock (steady_clock.hpp) or, for a device, a callable that first waits for its CUDA
  /// stream. Throws as measure_sensitivities does, and std::invalid_argument for less than one
  /// pass. Dropping saves the backward time: pass the vector of all times[i].backward to set_costs.
  template <class Backprop, class Clock>
  std::vector<BranchTimes> measure_costs(Backprop&& backprop, const Clock& now, int passes = 3) {
    return detail::measure_costs(*this, backprop, now, passes);
  }

  /// From the next step on, each kept branch measures the norms of the residual stream's gradient
  /// above and below itself.
  void observe_stream(bool observes = true) noexcept { observes_stream_ = observes; }

  /// Updates `running` from this step's gradients: from the norms of the kept branches' own
  /// gradients (summed over micro-steps), and from how these branches changed the residual stream's
  /// gradient. The second part is measured only in steps begun after observe_stream(); this
  /// function calls it, so only the first step, also of a resumed training, needs an explicit call.
  /// Call this after the last backward pass of a step, before the gradients are scaled.
  template <class = void>
  void observe_gradients(RunningSensitivity& running) {
    observe_gradients_as(running, detail::OwnGradientNorm{});
  }

  /// The same with the squared norms of the gradients of each branch's own parameters, which a
  /// trainer that clips has already. Entries of dropped branches are ignored. Throws
  /// std::invalid_argument, and leaves the estimate unchanged, for a norm that is not finite.
  template <class = void>
  void observe_gradients(RunningSensitivity& running, std::span<const double> squared_norms) {
    detail::require_count(squared_norms.size(), size(), "squared norm");
    observe_gradients_as(running, [&](auto&, std::size_t i) { return squared_norms[i]; });
  }

  /// Allocates rates by a policy that needs no sensitivities, for example after set_drop_rate. A
  /// new handler with such a policy has allocated already. Throws std::logic_error for another
  /// policy, and std::invalid_argument as below.
  void allocate() {
    require_not_measuring();
    if (detail::needs_sensitivities(allocation_))
      detail::throw_order("the allocation policy needs sensitivities", "allocate() got none",
                          "pass them to allocate, or call allocate_by_sensitivity");
    schedule_.allocate(detail::view(std::vector<double>(size(), 1.0)), allocation_);
  }

  /// Allocates rates by the given sensitivities, one per branch. Throws std::invalid_argument, and
  /// leaves the rates unchanged, for invalid sensitivities or a target rate that the allocation
  /// policy cannot reach.
  void allocate(std::span<const double> sensitivities) {
    require_not_measuring();
    std::vector<double> copy(sensitivities.begin(), sensitivities.end());
    schedule_.allocate(sensitivities, allocation_);
    sensitivities_ = std::move(copy);
  }

  /// measure_sensitivities, then allocate. The published recipe does this once, at 10 % of the
  /// training, on one sample.
  template <class Backprop, class SensitivityPolicy = GradientNormSensitivity>
  std::span<const double> allocate_by_sensitivity(Backprop&& backprop,
                                                  const SensitivityPolicy& policy = {}) {
    const std::vector<double> measured =
        measure_sensitivities(std::forward<Backprop>(backprop), policy);
    allocate(detail::view(measured));
    return sensitivities();
  }

  // ---- counts

  /// Number of micro-steps that dropped each branch.
  std::span<const std::uint64_t> drop_counts() const noexcept {
    return detail::view(counts_.dropped);
  }

  /// Counts what was dropped and what ran since the handler was made or restored.
  Report report() const {
    require_not_measuring();
    Report report;
    report.micro_steps = counts_.micro_steps;
    const std::vector<BranchCalls> calls = branches_.calls(calls_before_);
    for (std::size_t i = 0; i < size(); ++i)
      report.branches.push_back(
          {costs()[i], drop_rates()[i], counts_.kept[i], counts_.dropped[i], calls[i]});
    return report;
  }

  /// The state that a resumed training needs; take it between two steps.
  HandlerState state() const {
    require_not_measuring();
    return {.seed = schedule_.options().seed,
            .plan_per = schedule_.options().plan_per,
            .next_step = counts_.next_step,
            .micro_steps = counts_.micro_steps,
            .drop_rate = drop_rate(),
            .drop_rates = {drop_rates().begin(), drop_rates().end()},
            .sensitivities = sensitivities_,
            .kept = counts_.kept,
            .dropped = counts_.dropped,
            .calls = branches_.calls(calls_before_)};
  }

  /// Continues from a saved state: begin_step(state.next_step) draws the same plan as in the
  /// uninterrupted training. Throws std::invalid_argument, and changes nothing, for a state of
  /// another model or with invalid rates, sensitivities or counts.
  void restore(const HandlerState& state) {
    require_no_measurement();
    detail::require_restorable(state, size());
    DropSchedule<SamplingPolicy> schedule = schedule_;
    schedule.restore(state.seed, state.plan_per, state.drop_rate, detail::view(state.drop_rates));
    HandlerState copy = state;
    branches_.require_unchanged();
    schedule_ = std::move(schedule);
    sensitivities_ = std::move(copy.sensitivities);
    counts_.kept = std::move(copy.kept);
    counts_.dropped = std::move(copy.dropped);
    counts_.next_step = state.next_step;
    counts_.micro_steps = state.micro_steps;
    plan_ = {};
    phase_ = Phase::idle;
    branches_.for_each(
        [&](auto& layer, std::size_t i) { layer.set_calls(BranchCalls(state.calls[i])); });
  }

 private:
  template <class Handler>
  friend class detail::Measurement;

  // What the layers were told last. Whether a step has begun is not told by the phase but by plan_:
  // it is then not empty.
  enum class Phase : std::uint8_t { idle, step, evaluating, measuring };

  template <class Norm>
  void observe_gradients_as(RunningSensitivity& running, const Norm& squared_norm_of) {
    require_not_measuring();
    require_begun();
    detail::require_one_after_another(schedule_, "RunningSensitivity estimates",
                                      "measure now and then: allocate_by_sensitivity");
    branches_.require_unchanged();
    detail::observe_step(branches_, schedule_, detail::view(counts_.kept_in_step),
                         detail::view(scales_), running, squared_norm_of);
    observe_stream();
  }

  // Restores the layers' counts and decisions after a measurement. Does not allocate. Throws only
  // the exceptions of for_each_layer, or if the layers have changed; calls_before_ is not empty
  // until it succeeds.
  void put_layers_back() {
    branches_.end_measurement(calls_before_);
    if (phase_ == Phase::evaluating)
      branches_.tell_evaluation();
    else if (phase_ == Phase::step)
      branches_.tell(plan_, detail::view(scales_), observes_stream_);
    else
      branches_.tell_all_kept();
    calls_before_.clear();
  }

  void require_plan(const DropPlan& plan) const {
    branches_.require_unchanged();
    detail::require_plan_of(plan, size());
    detail::require_parents_kept(plan, schedule_);
  }

  // Begins the step or micro-step of next_plan_ and next_scales_.
  void start(bool first) {
    branches_.tell(next_plan_, detail::view(next_scales_), observes_stream_);
    std::swap(plan_, next_plan_);
    std::swap(scales_, next_scales_);
    phase_ = Phase::step;
    counts_.count(plan_, first);
  }

  void require_begun() const {
    detail::require_not_moved_from(size());
    if (plan_.size() == 0) detail::throw_not_begun();  // an evaluation keeps the last plan
  }

  void require_not_measuring() const {
    detail::require_not_moved_from(size());
    if (phase_ == Phase::measuring) detail::throw_within_measurement();
  }

  void require_no_measurement() {
    require_not_measuring();
    if (!calls_before_.empty()) put_layers_back();
  }

  DropSchedule<SamplingPolicy> schedule_;
  detail::Branches<ModelType> branches_;
  [[no_unique_address]] AllocationPolicy allocation_;
  DropPlan plan_;
  DropPlan next_plan_;  // the next plan is drawn here, so that plan_ is intact if that throws
  std::vector<double> scales_;       // factors of GradientScaling in the current step
  std::vector<double> next_scales_;  // for next_plan_
  // The counts before the running measurement; empty if none runs.
  std::vector<BranchCalls> calls_before_;
  std::vector<double> sensitivities_;
  detail::PlanCounts counts_;
  Phase phase_ = Phase::idle;
  bool observes_stream_ = false;  // see observe_stream
};

DROPBP_NAMESPACE_END
