// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Drives the dropping of a whole model: steps, rates, state.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
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
#include "dropbp/sensitivity/complete.hpp"
#include "dropbp/sensitivity/costs.hpp"
#include "dropbp/sensitivity/nested.hpp"
#include "dropbp/sensitivity/running.hpp"
#include "dropbp/state.hpp"

DROPBP_NAMESPACE_BEGIN

namespace detail {

template <class L>
concept tells_trainable = requires(const L& layer) {
  { layer.trainable() } -> std::convertible_to<bool>;
};

}  // namespace detail

/// Tells the layers of a model, before each step, whose backward pass is dropped. Keeps a reference
/// to the model, which must outlive it and keep the number of its layers; the layers may move in
/// memory between calls. Branches are numbered in the order in which model.for_each_layer visits
/// them. Calls in the wrong order throw std::logic_error.
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
  /// Throws std::invalid_argument for a model without layers, FLOPs that are not positive, or a
  /// rate outside [0, 1].
  explicit DropBPHandler(ModelType& model, DropOptions options = {},
                         AllocationPolicy allocation = {}, SamplingPolicy sampling = {})
      : schedule_(detail::layer_flops(model), std::move(options), std::move(sampling)),
        branches_(model, schedule_.size()),
        allocation_(std::move(allocation)),
        scales_(schedule_.size(), 1.0),
        kept_micro_steps_(schedule_.size()),
        kept_(schedule_.size()),
        dropped_(schedule_.size()) {
    // No step allocates: each of the two plans is drawn into what the other one leaves.
    for (DropPlan* const plan : {&plan_, &next_plan_}) {
      const auto nothing = [](std::span<std::uint8_t>, std::span<std::uint32_t>) {};
      plan->redraw(size(), {.groups = detail::view(schedule_.options().groups)}, nothing);
      plan->redraw(0, {}, nothing);
    }
    scales_.reserve(size());
    next_scales_.reserve(size());
    branches_.for_each([](auto& layer, std::size_t) { layer.set_calls(BranchCalls{}); });
    ask_what_is_trainable();
  }

  // ---- steps

  /// Draws the plan of an optimizer step's first micro-step and tells every layer. Call it before
  /// the forward pass. Layers whose operation has trainable() are asked for it in every step, so
  /// that it may change between steps; for all others DropOptions::trainable counts. Throws
  /// std::invalid_argument for step 2^64 - 1, which has no next one.
  void begin_step(std::uint64_t step) {
    require_no_measurement();
    require_next_step(step);
    branches_.require_unchanged();
    ask_what_is_trainable();
    schedule_.draw(step, 0, next_plan_);
    schedule_.gradient_scales(step, next_scales_);
    start(true);
  }

  /// The next micro-step of the same optimizer step (gradient accumulation): 1, then 2 and so on,
  /// since begin_step has begun number 0. With PlanPer::step it keeps the decisions of that one.
  void begin_micro_step(std::uint32_t micro_step) {
    require_no_measurement();
    require_begun();
    if (micro_step <= plan_.micro_step())
      detail::throw_order(
          "the micro-steps of a step must be numbered upwards, begin_step being number 0",
          "number " + detail::text(std::uint64_t{micro_step}) + " follows number " +
              detail::text(std::uint64_t{plan_.micro_step()}),
          "call begin_micro_step(1), then 2 and so on, or begin_step for a new step");
    branches_.require_unchanged();
    if (schedule_.options().plan_per == PlanPer::step) {
      detail::require_micro_step(micro_step);
      next_plan_ = plan_;
      next_plan_.set_micro_step(micro_step);
      next_scales_ = scales_;
    } else {
      schedule_.draw(plan_.step(), micro_step, next_plan_);
      schedule_.gradient_scales(plan_.step(), next_scales_);
    }
    start(false);
  }

  /// A step with a plan from elsewhere. Throws std::invalid_argument for one of another size, of
  /// step 2^64 - 1, or made without DropOptions::parents.
  void begin_step(const DropPlan& plan) {
    require_no_measurement();
    require_next_step(plan.step());
    branches_.require_unchanged();
    detail::require_count(plan.size(), size(), "decision in a plan");
    require_parents_kept(plan);
    next_plan_ = plan;
    schedule_.gradient_scales(plan.step(), next_scales_);
    start(true);
  }

  /// Until the next begin_step, forward passes save nothing and no backward may follow: for
  /// validation losses.
  void begin_evaluation() {
    require_no_measurement();
    branches_.require_unchanged();
    evaluate_layers();
    phase_ = Phase::evaluating;
  }

  /// The plan of the micro-step begun last; empty before the first begin_step.
  const DropPlan& plan() const noexcept { return plan_; }

  /// Whether that plan keeps no branch at all.
  bool all_dropped() const noexcept { return plan_.all_dropped(); }

  /// Whether the branches need a backward pass: one is kept, or something below them trains.
  bool backward_needed() const noexcept { return plan_.backward_needed(); }

  /// Whether a branch that trains was kept in any micro-step since begin_step: its parameters have
  /// a gradient, and the optimizer must leave those of all other branches alone, their moments and
  /// decay too.
  bool has_gradient(std::size_t branch) const {
    require_begun();
    static_cast<void>(plan_.dropped(branch));  // checks the number
    return kept_micro_steps_[branch] != 0 && schedule_.trainable(branch);
  }

  // ---- rates

  std::size_t size() const noexcept { return schedule_.size(); }  ///< number of branches
  /// What draws the plans.
  const DropSchedule<SamplingPolicy>& schedule() const noexcept { return schedule_; }
  double drop_rate() const noexcept { return schedule_.drop_rate(); }  ///< the target rate P
  /// Of each branch.
  std::span<const double> drop_rates() const noexcept { return schedule_.drop_rates(); }
  /// Cost of each branch.
  std::span<const double> flops() const noexcept { return schedule_.flops(); }

  /// See DropSchedule::learning_rate_scale.
  double learning_rate_scale(std::size_t branch) const {
    return schedule_.learning_rate_scale(branch);
  }

  /// One rate for all branches from the next draw on: the next begin_step or, with
  /// PlanPer::micro_step, begin_micro_step. Like all that changes rates or costs, it throws
  /// std::logic_error in a measurement, which leaves them alone.
  void set_drop_rate(double rate) {
    require_not_measuring();
    schedule_.set_drop_rate(rate);
  }

  /// A rate for each branch from the next draw on.
  void set_drop_rates(std::span<const double> rates) {
    require_not_measuring();
    schedule_.set_drop_rates(rates);
  }

  /// Reads the layers' FLOPs again, for example after the sequence length changed.
  void update_flops() {
    require_not_measuring();
    const std::vector<double> flops = detail::layer_flops(branches_.model());
    schedule_.set_flops(detail::view(flops));
  }

  /// Costs from elsewhere in place of the layers' FLOPs, in any common unit: for example seconds
  /// from measure_costs.
  void set_flops(std::span<const double> flops) {
    require_not_measuring();
    schedule_.set_flops(flops);
  }

  /// The sensitivities measured or given last; empty before.
  std::span<const double> sensitivities() const noexcept { return detail::view(sensitivities_); }

  /// Measures the sensitivity of every branch. `backprop()` clears the gradients, then runs one
  /// forward and backward pass on the same data every time; it is called size() + 1 times, first
  /// with nothing dropped, then with one branch dropped at a time. Plan, rates, counts and random
  /// generators are left alone; the gradients are those of the last pass, and nothing of a forward
  /// pass before it is left for a backward pass after it. Average over several samples by measuring
  /// several times. Throws whatever backprop throws, std::runtime_error when a gradient is not
  /// finite, and std::logic_error when backprop begins a step, changes rates or costs, or runs none
  /// of the model's layers. After any of these everything is as it was. Should for_each_layer throw
  /// while the layers are put back, that waits for the next begin_step, begin_evaluation,
  /// measurement or restore: begin one of them before the next pass.
  template <class Backprop, class SensitivityPolicy = GradientNormSensitivity>
  std::vector<double> measure_sensitivities(Backprop&& backprop,
                                            const SensitivityPolicy& policy = {}) {
    return detail::measure_complete(*this, backprop, policy);
  }

  /// The same with one forward pass for all, for models whose branches can be run backward one by
  /// one (none inside another: DropOptions::parents): about 2.8 times cheaper for 16 branches
  /// and 2.95 for 64 where all weights train. Dropping a branch changes nothing above it, so the
  /// measurement of branch i starts from the gradient that the complete backward pass had there.
  /// `pass` offers
  ///   Gradient forward()
  ///       clears all gradients; a forward pass, the loss, and the
  ///       backward pass down to the output of the highest branch
  ///   Gradient backward(std::size_t branch, const Gradient& grad)
  ///       through one branch, into a new gradient
  ///   void backward_below(const Gradient& grad)
  ///       through what lies below branch 0
  ///   void clear_gradients(std::size_t branches)
  ///       makes absent the gradients of the branches below this
  ///       number and of all that lies below them
  /// and the operations say `static constexpr bool backward_is_repeatable = true`: their backward
  /// leaves Saved as it was. Memory at the peak: what all branches save, size() + 1 gradients of
  /// the residual stream, and the policy's reference.
  template <class Pass, class SensitivityPolicy = GradientNormSensitivity>
  std::vector<double> measure_sensitivities_nested(Pass&& pass,
                                                   const SensitivityPolicy& policy = {}) {
    return detail::measure_nested(*this, pass, policy);
  }

  /// The seconds that each branch takes, for set_flops in place of FLOPs: of `passes` calls of
  /// backprop with nothing dropped, the fastest pass of each branch. `now()` tells seconds as a
  /// double, of a branch without what is nested in it: SteadyClock (steady_clock.hpp), or for a
  /// device a callable that waits for its stream first. Throws as measure_sensitivities does, and
  /// std::invalid_argument for less than one pass. What a plan saves is the backward time:
  ///   handler.set_flops(std::vector<double> of times[i].backward)
  template <class Backprop, class Clock>
  std::vector<BranchTimes> measure_costs(Backprop&& backprop, const Clock& now, int passes = 3) {
    return detail::measure_costs(*this, backprop, now, passes);
  }

  /// From the next step on each kept branch takes the norms of the residual stream's gradient above
  /// and below itself.
  void observe_stream(bool observes = true) noexcept { observes_stream_ = observes; }

  /// Updates `running` from this step's gradients: from the norms of the kept branches' own
  /// gradients (their sums over the micro-steps) and, where observe_stream() was called before the
  /// step, from how these branches changed the gradient of the residual stream. It calls
  /// observe_stream() itself for later steps; a resumed training calls that before its first step.
  /// Call this after the backward pass of a step's last micro-step, before anything scales the
  /// gradients.
  template <class = void>
  void observe_gradients(RunningSensitivity& running) {
    observe_gradients_as(running, [](auto& layer, std::size_t) {
      static_assert(detail::has_squared_gradient_norm<decltype(layer)>,
                    "dropbp: observe_gradients needs layers with double squared_gradient_norm(), "
                    "which DropBPLayer has. For others pass the branches' squared norms: "
                    "observe_gradients(running, squared_norms).");
      return static_cast<double>(layer.squared_gradient_norm());
    });
  }

  /// The same where the trainer has the norms already, for clipping: squared_norms[i] of the
  /// gradients of branch i's own parameters. Entries of dropped branches are ignored. Throws
  /// std::invalid_argument for a norm that is not finite, with the estimate unchanged.
  template <class = void>
  void observe_gradients(RunningSensitivity& running, std::span<const double> squared_norms) {
    detail::require_count(squared_norms.size(), size(), "squared norm");
    observe_gradients_as(running, [&](auto&, std::size_t i) { return squared_norms[i]; });
  }

  /// Rates from given sensitivities, one a branch. Throws std::invalid_argument, with the rates as
  /// they were, for wrong ones or a target rate that the allocation policy cannot reach.
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

  // ---- accounts

  /// How many micro-steps have dropped each branch.
  std::span<const std::uint64_t> drop_counts() const noexcept { return detail::view(dropped_); }

  /// What was dropped and what really ran since the handler was made or restored.
  Report report() const {
    require_not_measuring();
    Report report;
    report.micro_steps = micro_steps_;
    report.branches.resize(size());
    branches_.for_each([&](auto& layer, std::size_t i) {
      report.branches[i] = {flops()[i], drop_rates()[i], kept_[i], dropped_[i], calls_of(layer, i)};
    });
    return report;
  }

  /// All that a resumed training needs of the handler; take it between two steps.
  HandlerState state() const {
    require_not_measuring();
    HandlerState state{.seed = schedule_.options().seed,
                       .plan_per = schedule_.options().plan_per,
                       .next_step = next_step_,
                       .micro_steps = micro_steps_,
                       .drop_rate = drop_rate(),
                       .drop_rates = {drop_rates().begin(), drop_rates().end()},
                       .sensitivities = sensitivities_,
                       .kept = kept_,
                       .dropped = dropped_,
                       .calls = std::vector<BranchCalls>(size())};
    branches_.for_each([&](auto& layer, std::size_t i) { state.calls[i] = calls_of(layer, i); });
    return state;
  }

  /// Goes on from a saved state, with begin_step(state.next_step): it draws what it would have
  /// drawn then. Throws std::invalid_argument, with everything as it was, for a state of another
  /// model or with impossible rates, sensitivities or counts.
  void restore(const HandlerState& state) {
    require_no_measurement();
    detail::require_consistent(state);
    detail::require_possible(state);
    if (state.drop_rates.size() != size())
      detail::throw_invalid(
          "a state must be of a model with as many branches (" + detail::text(size()) + ")",
          "it has " + detail::text(state.drop_rates.size()),
          "restore it into the model that it was saved from");
    DropSchedule<SamplingPolicy> schedule = schedule_;
    schedule.restore(state.seed, state.plan_per, state.drop_rate, detail::view(state.drop_rates));
    HandlerState copy = state;
    branches_.require_unchanged();
    schedule_ = std::move(schedule);
    sensitivities_ = std::move(copy.sensitivities);
    kept_ = std::move(copy.kept);
    dropped_ = std::move(copy.dropped);
    next_step_ = state.next_step;
    micro_steps_ = state.micro_steps;
    plan_ = {};
    phase_ = Phase::idle;
    branches_.for_each(
        [&](auto& layer, std::size_t i) { layer.set_calls(BranchCalls(state.calls[i])); });
  }

 private:
  template <class Handler>
  friend class detail::Measurement;

  // What the layers were told last. Whether a step has begun is another question: plan_ is then not
  // empty, and stays so in an evaluation or a measurement.
  enum class Phase : std::uint8_t { idle, step, evaluating, measuring };

  void ask_what_is_trainable() {
    branches_.for_each([&](auto& layer, std::size_t i) {
      if constexpr (detail::tells_trainable<decltype(layer)>)
        schedule_.set_trainable(i, static_cast<bool>(layer.trainable()));
    });
  }

  template <class Norm>
  void observe_gradients_as(RunningSensitivity& running, const Norm& squared_norm_of) {
    require_not_measuring();
    require_begun();
    detail::require_one_after_another(schedule_, "RunningSensitivity estimates",
                                      "measure now and then: allocate_by_sensitivity");
    branches_.require_unchanged();
    detail::observe_step(branches_, schedule_, detail::view(kept_micro_steps_),
                         detail::view(scales_), running, squared_norm_of);
    observe_stream();
  }

  // Allocates nothing.
  void tell_layers(const DropPlan& plan, std::span<const double> scales) const {
    branches_.decide([&](std::size_t i) {
      return BranchDecision{.dropped = plan.dropped(i),
                            .input_gradient_needed = plan.input_gradient_needed(i),
                            .observes_stream = observes_stream_,
                            .gradient_scale = scales[i]};
    });
  }

  void evaluate_layers() const {
    branches_.decide([](std::size_t) { return BranchDecision{.saves = false}; });
  }

  // After a measurement: restores the layers' counts and decisions. Allocates nothing, and throws
  // only what for_each_layer throws, or for changed layers; until it succeeds calls_before_ is not
  // empty.
  void put_layers_back() {
    branches_.for_each([&](auto& layer, std::size_t i) {
      layer.set_calls(BranchCalls(calls_before_[i]));
      if constexpr (requires { layer.release(); }) layer.release();
      if constexpr (detail::has_clock<decltype(layer)>) layer.set_clock(detail::ClockReference{});
    });
    if (phase_ == Phase::evaluating)
      evaluate_layers();
    else if (phase_ == Phase::step)
      tell_layers(plan_, detail::view(scales_));
    else
      branches_.decide([](std::size_t) { return BranchDecision{}; });
    calls_before_.clear();
  }

  template <class Layer>
  BranchCalls calls_of(const Layer& layer, std::size_t branch) const {
    return calls_before_.empty() ? BranchCalls(layer.calls()) : calls_before_[branch];
  }

  // The step or micro-step of next_plan_ and next_scales_.
  void start(bool first) {
    tell_layers(next_plan_, detail::view(next_scales_));
    std::swap(plan_, next_plan_);
    std::swap(scales_, next_scales_);
    phase_ = Phase::step;
    next_step_ = plan_.step() + 1;
    ++micro_steps_;
    for (std::size_t i = 0; i < size(); ++i) {
      const bool kept = plan_.kept(i);
      ++(kept ? kept_ : dropped_)[i];
      if (first) kept_micro_steps_[i] = 0;
      kept_micro_steps_[i] += kept;
    }
  }

  void require_not_moved_from() const {
    if (size() == 0)  // no other handler is of no branch
      detail::throw_order("a handler drives its model until it is moved from",
                          "this one was moved from", "use the one that it was moved to");
  }

  void require_begun() const {
    require_not_moved_from();
    if (plan_.size() == 0)  // an evaluation keeps the plan of the step before it
      detail::throw_order("this call belongs to a step",
                          "none has begun since the handler was made or restored",
                          "call begin_step(step) first");
  }

  void require_not_measuring() const {
    require_not_moved_from();
    if (phase_ == Phase::measuring)
      detail::throw_order(
          "the passes of a measurement must stay one step, with its rates and counts",
          "backprop began another step or measurement, or changed or asked for these",
          "let backprop only clear the gradients and run one forward and one backward pass");
  }

  void require_parents_kept(const DropPlan& plan) const {
    bool agrees = plan.all_dropped() || schedule_.parent(plan.lowest_kept()) == plan.lowest_kept();
    for (std::size_t i = 0; i < size(); ++i)
      agrees = agrees && (plan.dropped(i) || plan.kept(schedule_.parent(i)));
    if (!agrees)
      detail::throw_invalid("a plan for nested branches must be made with DropOptions::parents",
                            "this one takes no account of them",
                            "hand the parents to the plan's constructor or DropPlan::Context, or "
                            "let a DropSchedule draw it");
  }

  void require_no_measurement() {
    require_not_measuring();
    if (!calls_before_.empty()) put_layers_back();
  }

  static void require_next_step(std::uint64_t step) {
    if (step == ~std::uint64_t{0})
      detail::throw_invalid("a step must be below 2^64 - 1, for a next one to follow",
                            "it is " + detail::text(step), "count steps from 0");
  }

  DropSchedule<SamplingPolicy> schedule_;
  detail::Branches<ModelType> branches_;
  [[no_unique_address]] AllocationPolicy allocation_;
  DropPlan plan_;
  DropPlan next_plan_;  // where the next one is drawn: should that throw, the old one is whole
  std::vector<double> scales_;                   // GradientScaling in the step begun last
  std::vector<double> next_scales_;              // as next_plan_
  std::vector<BranchCalls> calls_before_;        // a measurement; empty when none is on
  std::vector<std::uint32_t> kept_micro_steps_;  // since begin_step
  std::vector<double> sensitivities_;
  std::vector<std::uint64_t> kept_;
  std::vector<std::uint64_t> dropped_;
  std::uint64_t next_step_ = 0;
  std::uint64_t micro_steps_ = 0;
  Phase phase_ = Phase::idle;
  bool observes_stream_ = false;  // see observe_stream
};

DROPBP_NAMESPACE_END
