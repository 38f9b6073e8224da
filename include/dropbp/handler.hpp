// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Drives the dropping of a whole model: plans for its steps, sensitivities, rates, counts.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "dropbp/base/view.hpp"
#include "dropbp/dropbp_fwd.hpp"
#include "dropbp/model.hpp"
#include "dropbp/plan.hpp"
#include "dropbp/policy/allocation.hpp"
#include "dropbp/policy/running_sensitivity.hpp"
#include "dropbp/policy/sampling.hpp"
#include "dropbp/policy/sensitivity.hpp"
#include "dropbp/report.hpp"
#include "dropbp/schedule.hpp"
#include "dropbp/state.hpp"

DROPBP_NAMESPACE_BEGIN

namespace detail {

template <class Clock>
concept tells_seconds = requires(const Clock& now) { static_cast<double>(now()); };

template <class L>
concept repeats_backward =
    requires { requires std::remove_reference_t<L>::backward_is_repeatable; };

template <class L>
concept has_clock = requires(L& layer) {
  layer.set_clock(ClockReference{});
  { layer.times() } -> std::convertible_to<BranchTimes>;
};

template <class L>
concept has_squared_gradient_norm = requires(L& layer) {
  { layer.squared_gradient_norm() } -> std::convertible_to<double>;
};

template <class L>
concept has_stream_ratio = requires(L& layer) {
  { layer.stream_ratio() } -> std::convertible_to<double>;
};

template <class L>
concept tells_trainable = requires(const L& layer) {
  { layer.trainable() } -> std::convertible_to<bool>;
};

template <class Pass>
using pass_gradient = std::remove_cvref_t<decltype(std::declval<Pass&>().forward())>;

template <class Pass>
concept has_pass_forward = std::movable<pass_gradient<Pass>>;

template <class Pass, class Gradient>
concept has_pass_backward = requires(Pass& pass, const Gradient& grad) {
  { pass.backward(std::size_t{}, grad) } -> std::convertible_to<Gradient>;
};

template <class Pass, class Gradient>
concept has_backward_below =
    requires(Pass& pass, const Gradient& grad) { pass.backward_below(grad); };

template <class Pass>
concept has_clear_gradients = requires(Pass& pass) { pass.clear_gradients(std::size_t{}); };

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
      : model_(detail::address_of(model)),
        schedule_(layer_flops(model), std::move(options), std::move(sampling)),
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
    for_each_branch([](auto& layer, std::size_t) { layer.set_calls(BranchCalls{}); });
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
    require_same_layers();
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
    require_same_layers();
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
    require_same_layers();
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
    require_same_layers();
    evaluate_layers();
    evaluating_ = true;
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
    const std::vector<double> flops = layer_flops(*model_);
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
    static_assert(require_measurable<SensitivityPolicy>() && require_backprop<Backprop>());
    require_no_measurement();
    std::vector<double> sensitivities(size());
    Measurement measurement(*this);
    drop_only(size());
    static_cast<void>(backprop());
    measurement.require_passes();
    const typename SensitivityPolicy::Reference reference = policy.reference(*model_);
    // Of the gradients with themselves: not zero only where they are not finite.
    require_finite(policy.difference(reference, *model_), "nothing");
    for (std::size_t i = 0; i < size(); ++i) {
      drop_only(i);
      static_cast<void>(backprop());
      sensitivities[i] = policy.difference(reference, *model_);
      require_finite(sensitivities[i], "branch " + detail::text(i));
    }
    measurement.end();
    return sensitivities;
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
    static_assert(require_measurable<SensitivityPolicy>() && require_pass<Pass>());
    using Gradient = std::remove_cvref_t<decltype(pass.forward())>;
    require_no_measurement();
    require_one_after_another("measure_sensitivities_nested runs", "call measure_sensitivities");
    std::vector<double> sensitivities(size());
    std::vector<Gradient> gradients;  // of each branch's output, from the highest down
    gradients.reserve(size() + 1);
    Measurement measurement(*this);
    for_each_branch([](auto& layer, std::size_t) {
      static_assert(detail::repeats_backward<decltype(layer)>,
                    "dropbp: measure_sensitivities_nested runs each backward several times; an "
                    "operation whose backward leaves Saved as it was says so with static constexpr "
                    "bool backward_is_repeatable = true.");
    });
    drop_only(size(), true);
    gradients.push_back(pass.forward());
    for (std::size_t i = size(); i-- > 0;) gradients.push_back(pass.backward(i, gradients.back()));
    static_cast<void>(pass.backward_below(gradients.back()));
    gradients.pop_back();
    measurement.require_passes();
    const typename SensitivityPolicy::Reference reference = policy.reference(*model_);
    require_finite(policy.difference(reference, *model_), "nothing");
    // From the lowest up: what lies above the dropped branch keeps the gradients of the complete
    // pass.
    for (std::size_t i = 0; i < size(); ++i) {
      static_cast<void>(pass.clear_gradients(i + 1));
      Gradient gradient = std::move(gradients.back());
      gradients.pop_back();
      for (std::size_t below = i; below-- > 0;) gradient = pass.backward(below, gradient);
      static_cast<void>(pass.backward_below(gradient));
      sensitivities[i] = policy.difference(reference, *model_);
      require_finite(sensitivities[i], "branch " + detail::text(i));
    }
    measurement.end();
    return sensitivities;
  }

  /// The seconds that each branch takes, for set_flops in place of FLOPs: of `passes` calls of
  /// backprop with nothing dropped, the fastest pass of each branch. `now()` tells seconds as a
  /// double, of a branch without what is nested in it: SteadyClock (steady_clock.hpp), or for a
  /// device a callable that waits for its stream first. Throws as measure_sensitivities does, and
  /// std::invalid_argument for less than one pass. What a plan saves is the backward time:
  ///   handler.set_flops(std::vector<double> of times[i].backward)
  template <class Backprop, class Clock>
  std::vector<BranchTimes> measure_costs(Backprop&& backprop, const Clock& now, int passes = 3) {
    static_assert(require_backprop<Backprop>());
    static_assert(detail::tells_seconds<Clock>,
                  "dropbp: the second argument of measure_costs is a clock: now() const returns "
                  "seconds as a number. On the host that is SteadyClock{} (steady_clock.hpp).");
    require_no_measurement();
    if (passes < 1)
      detail::throw_invalid("measure_costs needs at least one pass",
                            std::to_string(passes) + " were asked for",
                            "leave the number out for three");
    std::vector<BranchTimes> times(size());
    Measurement measurement(*this);
    const auto read = [&now] { return static_cast<double>(now()); };
    const detail::ClockReference clock{
        [](const void* one) { return (*static_cast<const decltype(read)*>(one))(); }, &read};
    for (int pass = 0; pass < passes; ++pass) {
      drop_only(size());
      for_each_branch([&](auto& layer, std::size_t) {
        static_assert(detail::has_clock<decltype(layer)>,
                      "dropbp: measure_costs needs layers with set_clock(...) and BranchTimes "
                      "times(), which DropBPLayer has.");
        layer.set_clock(clock);
      });
      static_cast<void>(backprop());
      std::vector<BranchTimes> own(size());
      for_each_branch([&](auto& layer, std::size_t i) {
        const BranchTimes all = layer.times();
        own[i].forward += all.forward, own[i].backward += all.backward;
        if (const std::size_t parent = schedule_.parent(i); parent != i)
          own[parent].forward -= all.forward, own[parent].backward -= all.backward;
      });
      for (std::size_t i = 0; i < size(); ++i) {
        if (pass == 0 || own[i].forward < times[i].forward) times[i].forward = own[i].forward;
        if (pass == 0 || own[i].backward < times[i].backward) times[i].backward = own[i].backward;
      }
    }
    measurement.require_passes();
    measurement.end();
    return times;
  }

  /// From the next step on kept branches look at the stream's gradient above and below themselves,
  /// two norms each.
  void observe_stream(bool observes = true) noexcept { observes_stream_ = observes; }

  /// Tells a running estimate what a step's backward passes showed: the norms of the kept branches'
  /// own gradients (their sum over the micro-steps is taken) and, where observe_stream() was called
  /// before it, how they changed the gradient of the stream. It calls observe_stream() itself for
  /// the steps to come; a resumed training calls it before its first step. Call this after the
  /// backward pass of a step's last micro-step, before anything scales the gradients.
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
  /// gradients of branch i's own parameters, whatever it is for dropped ones. Throws
  /// std::invalid_argument for a norm that is not finite, with the estimate as it was.
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
    for_each_branch([&](auto& layer, std::size_t i) {
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
    for_each_branch([&](auto& layer, std::size_t i) { state.calls[i] = calls_of(layer, i); });
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
    require_same_layers();
    schedule_ = std::move(schedule);
    sensitivities_ = std::move(copy.sensitivities);
    kept_ = std::move(copy.kept);
    dropped_ = std::move(copy.dropped);
    next_step_ = state.next_step;
    micro_steps_ = state.micro_steps;
    plan_ = {};
    begun_ = false;
    evaluating_ = false;
    for_each_branch(
        [&](auto& layer, std::size_t i) { layer.set_calls(BranchCalls(state.calls[i])); });
  }

 private:
  // These are called in static_asserts, so that their messages come before the compiler's own.
  template <class SensitivityPolicy>
  static constexpr bool require_measurable() {
    static_assert(GradientModel<ModelType>,
                  "dropbp: measuring sensitivities needs a model with for_each_gradient(visit), "
                  "which visits the gradient of every trained parameter tensor.");
    static_assert(Sensitivity<SensitivityPolicy>,
                  "dropbp: the second argument of a measurement is a sensitivity policy, with a "
                  "type Reference, Reference reference(Model&) const and double difference(const "
                  "Reference&, Model&) const. GradientNormSensitivity{} is the default.");
    return true;
  }

  template <class Backprop>
  static constexpr bool require_backprop() {
    static_assert(
        requires(Backprop& backprop) { backprop(); },
        "dropbp: the first argument of a measurement is backprop, a function that is called "
        "without arguments: a lambda [&] { ... } that captures its batch.");
    return true;
  }

  template <class Pass>
  static constexpr bool require_pass() {
    static_assert(detail::has_pass_forward<Pass>,
                  "dropbp: the pass of measure_sensitivities_nested needs Gradient forward(), "
                  "which returns the gradient of the highest branch's output as a movable type.");
    if constexpr (detail::has_pass_forward<Pass>) {
      using Gradient = detail::pass_gradient<Pass>;
      static_assert(detail::has_pass_backward<Pass, Gradient>,
                    "dropbp: the pass of measure_sensitivities_nested needs Gradient "
                    "backward(std::size_t branch, const Gradient& grad), which returns the "
                    "gradient of the branch's input, of the type that forward() returns.");
      static_assert(
          detail::has_backward_below<Pass, Gradient>,
          "dropbp: the pass of measure_sensitivities_nested needs void backward_below(const "
          "Gradient& grad), for what lies below branch 0; where nothing does, an empty one.");
    }
    static_assert(
        detail::has_clear_gradients<Pass>,
        "dropbp: the pass of measure_sensitivities_nested needs void clear_gradients(std::size_t "
        "branches), for the branches below this number and all that lies below them.");
    return true;
  }

  template <class Visit>
  static std::size_t visit_layers(ModelType& model, Visit visit) {
    std::size_t count = 0;
    model.for_each_layer([&]<class Layer>(Layer&& layer) {
      constexpr bool droppable =
          std::is_lvalue_reference_v<Layer> && DroppableLayer<std::remove_reference_t<Layer>>;
      static_assert(droppable,
                    "dropbp: for_each_layer must visit every DropBPLayer itself: not its "
                    "operation, not a constant one, not a copy.");
      if constexpr (droppable) visit(layer, count++);
    });
    return count;
  }

  static std::vector<double> layer_flops(ModelType& model) {
    std::vector<double> flops;
    visit_layers(model, [&](auto& layer, std::size_t) {
      flops.push_back(static_cast<double>(layer.flops()));
    });
    return flops;
  }

  template <class Visit>
  void for_each_branch(Visit visit) const {
    const std::size_t count = visit_layers(*model_, [&](auto& layer, std::size_t i) {
      if (i < size()) visit(layer, i);
    });
    if (count != size()) {
      require_not_moved_from();
      detail::throw_order("a model must keep the layers that its handler was made for (" +
                              detail::text(size()) + ")",
                          "for_each_layer visited " + detail::text(count),
                          "make a new handler for the changed model");
    }
  }

  // Before the first change: where the model's layers have changed, everything stays as it was.
  void require_same_layers() const {
    for_each_branch([](auto&, std::size_t) {});
  }

  void ask_what_is_trainable() {
    for_each_branch([&](auto& layer, std::size_t i) {
      if constexpr (detail::tells_trainable<decltype(layer)>)
        schedule_.set_trainable(i, static_cast<bool>(layer.trainable()));
    });
  }

  template <class Norm>
  void observe_gradients_as(RunningSensitivity& running, const Norm& squared_norm_of) {
    require_not_measuring();
    require_begun();
    require_one_after_another("RunningSensitivity estimates",
                              "measure now and then: allocate_by_sensitivity");
    require_same_layers();
    bool trains = schedule_.options().trainable_below;
    for_each_branch([&](auto& layer, std::size_t i) {
      // Nobody misses a branch with nothing to train in it and below it. Every plan drops it, so
      // that it would stay unknown.
      trains = trains || schedule_.trainable(i);
      if (!trains) return running.observe(i, 0.0);
      // The sums over the micro-steps that kept it, as a step without GradientScaling would have
      // one.
      const double scale = static_cast<double>(kept_micro_steps_[i]) * scales_[i];
      if (!(scale > 0.0)) return;
      double ratio = 1.0;
      if constexpr (detail::has_stream_ratio<decltype(layer)>)
        ratio = static_cast<double>(layer.stream_ratio());
      // Scaled, the branch added scales_[i] times as much to the stream: to first order 1 / ratio -
      // 1 is.
      if (scales_[i] != 1.0 && ratio > 0.0) ratio = 1.0 / (1.0 + (1.0 / ratio - 1.0) / scales_[i]);
      running.observe(i, squared_norm_of(layer, i) / (scale * scale),
                      detail::is_finite(ratio) && ratio > 0.0 ? ratio : 1.0);
    });
    running.end_step();
    observe_stream();
  }

  // None of these three allocates.
  void tell_layers(const DropPlan& plan, std::span<const double> scales) const {
    const std::uint64_t stamp = detail::next_stamp();
    for_each_branch([&](auto& layer, std::size_t i) {
      layer.decide(BranchDecision{.dropped = plan.dropped(i),
                                  .input_gradient_needed = plan.input_gradient_needed(i),
                                  .observes_stream = observes_stream_,
                                  .gradient_scale = scales[i],
                                  .stamp = stamp});
    });
  }

  // Branch `dropped` and what is nested in it, for a measurement; size() for none.
  void drop_only(std::size_t dropped, bool retains_saved = false) const {
    const std::uint64_t stamp = detail::next_stamp();
    const auto is_in = [&](std::size_t i) {
      while (i != dropped && schedule_.parent(i) != i) i = schedule_.parent(i);
      return i == dropped;
    };
    for_each_branch([&](auto& layer, std::size_t i) {
      layer.decide(BranchDecision{.dropped = is_in(i),
                                  .input_gradient_needed = !is_in(i),
                                  .retains_saved = retains_saved,
                                  .stamp = stamp});
    });
  }

  void evaluate_layers() const {
    const BranchDecision decision{.saves = false, .stamp = detail::next_stamp()};
    for_each_branch([&](auto& layer, std::size_t) { layer.decide(decision); });
  }

  // After a measurement: the layers' counts, and what they were told last, for passes of their own.
  // Allocates nothing, and throws only what for_each_layer throws, or for changed layers; until it
  // succeeds calls_before_ is not empty.
  void put_layers_back() {
    for_each_branch([&](auto& layer, std::size_t i) {
      layer.set_calls(BranchCalls(calls_before_[i]));
      if constexpr (requires { layer.release(); }) layer.release();
      if constexpr (detail::has_clock<decltype(layer)>) layer.set_clock(detail::ClockReference{});
    });
    if (evaluating_)
      evaluate_layers();
    else if (begun_)
      tell_layers(plan_, detail::view(scales_));
    else
      drop_only(size());
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
    begun_ = true;
    evaluating_ = false;
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
    if (!begun_)
      detail::throw_order("this call belongs to a step",
                          "none has begun since the handler was made or restored",
                          "call begin_step(step) first");
  }

  void require_not_measuring() const {
    require_not_moved_from();
    if (measuring_)
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

  void require_one_after_another(const char* who, const char* instead) const {
    for (std::size_t i = 0; i < size(); ++i)
      if (schedule_.parent(i) != i)
        detail::throw_order(std::string(who) + " branches that follow one another",
                            "branch " + detail::text(i) + " is nested in branch " +
                                detail::text(schedule_.parent(i)),
                            instead);
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

  static void require_finite(double sensitivity, const std::string& dropped) {
    if (!detail::is_finite(sensitivity))
      throw std::runtime_error(
          detail::sentence("gradients must be finite while sensitivities are measured",
                           "in the pass with " + dropped + " dropped one was not, or overflowed",
                           "look at the loss and its scale"));
  }

  // Counts the layers' calls from zero, and puts counts and decisions back, whether the measurement
  // ends well or throws.
  class Measurement {
   public:
    explicit Measurement(DropBPHandler& handler) : handler_(handler) {
      std::vector<BranchCalls> calls(handler.size());
      handler.for_each_branch([&](auto& layer, std::size_t i) { calls[i] = layer.calls(); });
      handler.calls_before_.swap(calls);
      handler.measuring_ = true;
      try {
        handler.for_each_branch([](auto& layer, std::size_t) { layer.set_calls(BranchCalls{}); });
      } catch (...) {
        put_back();
        throw;
      }
    }
    Measurement(const Measurement&) = delete;
    Measurement& operator=(const Measurement&) = delete;
    ~Measurement() { put_back(); }

    /// Where the measurement has ended well: what is thrown now has nothing else to hide.
    void end() {
      handler_.measuring_ = false;
      handler_.put_layers_back();
    }

    void require_passes() const {
      bool passed = false;
      handler_.for_each_branch([&](auto& layer, std::size_t) {
        const BranchCalls calls = layer.calls();
        passed = passed || (calls.forward != 0 && calls.backward != 0);
      });
      if (!passed)
        detail::throw_order(
            "backprop must run a forward and a backward pass through the handler's model",
            "none of its layers ran both", "let it use the layers that for_each_layer visits");
    }

   private:
    // Another error is on its way to the caller. What cannot be done now is done by the next call
    // that begins something.
    void put_back() noexcept {
      handler_.measuring_ = false;
      if (handler_.calls_before_.empty()) return;
      try {
        handler_.put_layers_back();
      } catch (...) {
      }
    }

    DropBPHandler& handler_;
  };

  ModelType* model_;
  DropSchedule<SamplingPolicy> schedule_;
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
  bool begun_ = false;            // plan_ is that of a step
  bool observes_stream_ = false;  // see observe_stream
  bool evaluating_ = false;       // begin_evaluation was the last to begin
  bool measuring_ = false;
};

DROPBP_NAMESPACE_END
