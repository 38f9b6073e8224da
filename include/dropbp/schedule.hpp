// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// DropSchedule: computes the plan of any step from rates, sampling policy and seed, without
// tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "dropbp/base/hash.hpp"
#include "dropbp/base/view.hpp"
#include "dropbp/drop_options.hpp"
#include "dropbp/dropbp_fwd.hpp"
#include "dropbp/plan.hpp"
#include "dropbp/policy/allocation.hpp"
#include "dropbp/policy/costs.hpp"
#include "dropbp/policy/sampling.hpp"
#include "dropbp/policy/sampling_defaults.hpp"
#include "dropbp/policy/warmup.hpp"

DROPBP_NAMESPACE_BEGIN

namespace detail {

DROPBP_LAZY
inline void require_micro_step(std::uint32_t micro_step) {
  if (micro_step > CounterRandom::max_micro_step)
    throw_invalid(
        "a micro-step must be at most " + text(std::uint64_t{CounterRandom::max_micro_step}),
        "it is " + text(std::uint64_t{micro_step}), "count micro-steps from 0 in every step");
}

}  // namespace detail

/// Computes which branches each step drops. A plan is a pure function of (seed, step, micro-step,
/// rates, sampling policy): any step's plan can be computed at any time, from any thread and on any
/// rank, with the same result.
template <class SamplingPolicy>
class DropSchedule {
  static_assert(Sampling<SamplingPolicy>,
                "dropbp: a schedule's third argument is a sampling policy: a copyable type with a "
                "copyable, default-constructible type Prepared, Prepared prepare(const "
                "SamplingInput&) const and draw(const Prepared&, const CounterRandom&, "
                "std::span<std::uint8_t> dropped) const. BernoulliSampling{} is the default.");
  static_assert(detail::require_optional_members<SamplingPolicy>());

 public:
  /// A schedule without branches, to be assigned later. Functions that need branches throw
  /// std::logic_error until then.
  DropSchedule() = default;

  /// `costs`: the cost of each branch in the order of the forward pass, in any common unit. Throws
  /// std::invalid_argument for no branch, a cost that is not positive and finite, or a rate outside
  /// [0, 1].
  explicit DropSchedule(std::vector<double> costs, DropOptions options = {},
                        SamplingPolicy sampling = {})
      : costs_(std::move(costs)), options_(std::move(options)), sampling_(std::move(sampling)) {
    if (costs_.empty())
      detail::throw_invalid("a model must have at least one residual branch", "this one has none",
                            "pass the cost of each of its branches; with a handler, wrap them in "
                            "DropBPLayer and let for_each_layer visit them");
    total_cost_ = detail::total_cost_of(detail::view(costs_));
    if (!options_.groups.empty())
      detail::require_count(options_.groups.size(), size(), "group number");
    for (std::size_t i = 0; i < options_.groups.size(); ++i)
      if (options_.groups[i] >= size())
        detail::throw_invalid("groups are numbered from 0, below the number of branches (" +
                                  detail::text(size()) + ")",
                              "that of branch " + detail::text(i) + " is " +
                                  detail::text(std::uint64_t{options_.groups[i]}),
                              "number them densely, for example 0 for attention and 1 for MLP");
    if (!options_.trainable.empty())
      detail::require_count(options_.trainable.size(), size(), "entry of DropOptions::trainable");
    detail::require_parents(detail::view(options_.parents), size());
    set_drop_rate(options_.drop_rate);
  }

  /// Not of a number of branches: a cost for each is required.
  template <class Number>
    requires(std::is_arithmetic_v<Number>)
  DropSchedule(Number, const DropOptions&, const SamplingPolicy& = {}) {
    static_assert(
        !std::is_arithmetic_v<Number>,
        "dropbp: the first argument of a schedule is a list with the cost of each branch, "
        "not a number: std::vector<double>(8, 1.0) for 8 branches that cost the same.");
  }
  /// The same without options; only of a whole number, so that ({1.0}) stays a list of costs.
  template <class Number>
    requires(std::is_integral_v<Number>)
  explicit DropSchedule(Number number) : DropSchedule(number, DropOptions{}) {}

  /// Not with a rate: that is one of the options.
  template <class Number>
    requires(std::is_arithmetic_v<Number>)
  DropSchedule(const std::vector<double>&, Number, const SamplingPolicy& = {}) {
    static_assert(!std::is_arithmetic_v<Number>,
                  "dropbp: the second argument of a schedule is a DropOptions, not a number: "
                  "{.drop_rate = 0.5} for a drop rate of 0.5.");
  }

  /// The plan of one micro-step.
  DropPlan plan(std::uint64_t step, std::uint32_t micro_step = 0) const {
    DropPlan plan;
    draw(step, micro_step, plan);
    return plan;
  }

  /// The same into an existing plan. Does not allocate if the plan was used before, except in the
  /// warm-up.
  void draw(std::uint64_t step, std::uint32_t micro_step, DropPlan& plan) const {
    detail::require_micro_step(micro_step);
    require_made();
    const std::uint32_t drawn = options_.plan_per == PlanPer::step ? 0 : micro_step;
    const CounterRandom random{options_.seed, RandomStream::drop_decision, step, drawn};
    const auto draw_from = [&](const typename SamplingPolicy::Prepared& prepared,
                               std::uint64_t rates_hash) {
      detail::PlanBuilder::redraw(
          plan, size(),
          {.trainable_below = options_.trainable_below,
           .step = step,
           .micro_step = micro_step,
           .rates_hash = rates_hash,
           .groups = detail::view(options_.groups),
           .trainable = detail::view(options_.trainable),
           .parents = detail::view(options_.parents)},
          [&](std::span<std::uint8_t> dropped, std::span<std::uint32_t> work) {
            detail::draw_with(sampling_, prepared, random, dropped, work);
          });
    };
    if (step >= options_.warmup_steps) return draw_from(prepared_, rates_hash_);
    const std::vector<double> rates = drop_rates_at(step);
    draw_from(sampling_.prepare(
                  input(detail::view(rates),
                        options_.drop_rate * detail::warmup_share(step, options_.warmup_steps))),
              detail::hash_of(detail::view(rates)));
  }

  std::size_t size() const noexcept { return costs_.size(); }  ///< number of branches
  /// Cost of each branch.
  std::span<const double> costs() const noexcept { return detail::view(costs_); }
  double total_cost() const noexcept { return total_cost_; }  ///< of all branches
  /// The options, with the current target rate.
  const DropOptions& options() const noexcept { return options_; }
  const SamplingPolicy& sampling() const noexcept { return sampling_; }  ///< the policy that draws

  /// Whether a parameter of the branch is trainable, for plans, gradients and estimates. The
  /// initial value is DropOptions::trainable.
  bool trainable(std::size_t branch) const {
    return options_.trainable.empty() || options_.trainable.at(branch) != 0;
  }

  /// Sets whether the branch is trainable from now on. Throws std::out_of_range for a branch beyond
  /// size().
  void set_trainable(std::size_t branch, bool trainable) {
    if (options_.trainable.empty()) {
      if (trainable && branch < size()) return;
      options_.trainable.assign(size(), 1);
    }
    options_.trainable.at(branch) = trainable ? 1 : 0;
  }

  /// The branch that this one is nested in, or itself: see DropOptions::parents.
  std::size_t parent(std::size_t branch) const {
    return options_.parents.empty() ? branch : options_.parents.at(branch);
  }

  /// The rate of every branch, after the warm-up.
  std::span<const double> drop_rates() const noexcept { return detail::view(rates_); }

  /// The rates from which a step's plan is drawn.
  std::vector<double> drop_rates_at(std::uint64_t step) const {
    std::vector<double> rates = rates_;
    if (step < options_.warmup_steps) {
      detail::warm_up(detail::view(rates), step, options_.warmup_steps);
      detail::limit_rates(sampling_, detail::view(rates),
                          input(detail::view(rates), options_.drop_rate));
    }
    return rates;
  }

  /// The most branches of a group that any plan keeps at these rates: the number of slots in an
  /// arena for the group's activations. For nested branches it is an upper bound, because it counts
  /// branches as kept even if their parents are dropped.
  std::size_t max_kept(std::uint32_t group = 0) const {
    require_made();
    std::size_t members = 0, kept = 0;
    for (std::size_t i = 0; i < size(); ++i)
      if ((options_.groups.empty() ? 0 : options_.groups[i]) == group)
        ++members, kept += rates_[i] < 1.0;
    if (members == 0)
      detail::throw_invalid(
          "a group must have branches", "group " + detail::text(std::uint64_t{group}) + " has none",
          "set DropOptions::groups (in C: kinds or groups of dropbp_options); without them all "
          "branches are in group 0");
    if (options_.warmup_steps > 0) return members;
    return detail::max_kept_of(sampling_, prepared_, group, kept);
  }

  /// The slots that an arena for a group's activations must have with one for the scratch of
  /// dropped branches: max_kept(group) + 1, or the number of its branches, if that is smaller. See
  /// DropPlan::slot_or.
  std::size_t slot_count(std::uint32_t group = 0) const {
    const std::size_t kept = max_kept(group);
    std::size_t members = 0;
    for (std::size_t i = 0; i < size(); ++i)
      members += (options_.groups.empty() ? 0 : options_.groups[i]) == group;
    return kept < members ? kept + 1 : members;
  }

  /// The largest total weight (count, cost or bytes, depending on the sampling policy) of the
  /// branches that a plan keeps.
  template <class S = SamplingPolicy>
  double max_kept_weight() const {
    static_assert(
        detail::has_max_kept_weight<S>,
        "dropbp: max_kept_weight() needs a sampling policy that bounds it: FixedBudgetSampling, or "
        "one with double max_kept_weight(const Prepared&) const.");
    require_made();
    if (options_.warmup_steps == 0) return sampling_.max_kept_weight(prepared_);
    const std::vector<double> rates = drop_rates_at(0);
    return sampling_.max_kept_weight(sampling_.prepare(input(detail::view(rates), 0.0)));
  }

  /// 1 / (1 - p), with the branch's rate p after the warm-up. Multiply the learning rate of its
  /// parameters by it to make up for the steps without a gradient, as the first published version
  /// did. It is 1 for a branch that is always dropped. For a nested branch, 1 - p is the product
  /// over itself and its parents, which is exact for independent draws.
  double learning_rate_scale(std::size_t branch) const {
    require_made();
    if (branch >= size())
      detail::throw_invalid("a branch is numbered below " + detail::text(size()),
                            "it is " + detail::text(branch),
                            "number the branches from 0 in the order of the forward pass");
    double kept = 1.0 - rates_[branch];
    for (; parent(branch) != branch; kept *= 1.0 - rates_[branch]) branch = parent(branch);
    return kept > 0.0 ? 1.0 / kept : 1.0;
  }

  /// The factors of GradientScaling in a step, one per branch.
  void gradient_scales(std::uint64_t step, std::vector<double>& scales) const {
    scales.assign(size(), 1.0);
    if (options_.gradient_scaling == GradientScaling::none) return;
    if (step < options_.warmup_steps) {
      scales = drop_rates_at(step);
    } else {
      scales = rates_;
    }
    for (double& scale : scales) scale = scale_at(scale);
  }

  /// The target rate P.
  double drop_rate() const noexcept { return options_.drop_rate; }

  /// Sets one rate for all branches, which is also the new target.
  void set_drop_rate(double rate) {
    require_made();
    detail::require_rate(rate, "drop_rate");
    apply(rate, std::vector<double>(size(), rate));
  }

  /// Sets a rate for every branch; the target becomes their mean weighted by cost.
  void set_drop_rates(std::span<const double> rates) {
    require_made();
    detail::require_count(rates.size(), size(), "drop rate");
    detail::require_rates(rates);
    apply(detail::mean_rate(rates, detail::view(costs_), total_cost_),
          {rates.begin(), rates.end()});
  }

  /// Distributes the target rate over the branches by sensitivity. Throws std::invalid_argument for
  /// a wrong number of sensitivities, one that is negative or not finite, or a target that the
  /// policy cannot reach; the rates are then unchanged.
  template <class AllocationPolicy>
  void allocate(std::span<const double> sensitivities, const AllocationPolicy& policy) {
    static_assert(Allocation<AllocationPolicy>,
                  "dropbp: the second argument of allocate is an allocation policy: a copyable "
                  "type with std::vector<double> allocate(const AllocationInput&) const.");
    require_made();
    detail::require_count(sensitivities.size(), size(), "sensitivity");
    for (std::size_t i = 0; i < size(); ++i)
      if (!detail::is_finite(sensitivities[i]) || sensitivities[i] < 0.0)
        detail::throw_invalid(
            "a sensitivity must be finite and not negative",
            "that of branch " + detail::text(i) + " is " + detail::text(sensitivities[i]),
            "look for an overflow or NaN in the gradients of the measurement");
    std::vector<double> rates = policy.allocate(
        {.sensitivities = sensitivities,
         .costs = detail::view(costs_),
         .drop_rate = options_.drop_rate,
         .kept_cost = detail::rounded(detail::rounded(1.0 - options_.drop_rate) * total_cost_)});
    detail::require_count(rates.size(), size(), "rate from the allocation policy");
    detail::require_rates(detail::view(rates));
    apply(options_.drop_rate, std::move(rates));
  }

  /// Restores seed, target and rates. Throws std::invalid_argument, and changes nothing, for
  /// invalid rates or a wrong number of them.
  void restore(std::uint64_t seed, PlanPer plan_per, double drop_rate,
               std::span<const double> rates) {
    require_made();
    detail::require_rate(drop_rate, "drop_rate");
    detail::require_count(rates.size(), size(), "drop rate");
    detail::require_rates(rates);
    apply(drop_rate, {rates.begin(), rates.end()});
    options_.seed = seed;
    options_.plan_per = plan_per;
  }

  /// Sets new costs, for example after the sequence length changed. The rates are unchanged unless
  /// a cap of the sampling policy raises them.
  void set_costs(std::span<const double> costs) {
    require_made();
    detail::require_count(costs.size(), size(), "cost");
    const double total = detail::total_cost_of(costs);
    std::vector<double> copy(costs.begin(), costs.end());
    std::swap(costs_, copy);
    detail::call_or_undo([&] { apply(options_.drop_rate, rates_); },
                         [&] { std::swap(costs_, copy); });
    total_cost_ = total;
  }

 private:
  SamplingInput input(std::span<const double> rates, double drop_rate) const {
    return {.rates = rates,
            .costs = detail::view(costs_),
            .drop_rate = drop_rate,
            .groups = detail::view(options_.groups)};
  }

  static double scale_at(double rate) { return rate < 1.0 ? 1.0 / (1.0 - rate) : 1.0; }

  void require_made() const {
    if (costs_.empty())
      detail::throw_order("a schedule must be made for the branches of a model before its use",
                          "this one was default-constructed or was moved from",
                          "assign DropSchedule(costs, options) to it, or use the one that it was "
                          "moved to");
  }

  // All steps that can throw precede the first change.
  void apply(double drop_rate, std::vector<double> rates) {
    detail::limit_rates(sampling_, detail::view(rates),
                        input(detail::view(rates), options_.drop_rate));
    typename SamplingPolicy::Prepared prepared =
        sampling_.prepare(input(detail::view(rates), drop_rate));
    prepared_ = std::move(prepared);
    rates_ = std::move(rates);
    rates_hash_ = detail::hash_of(drop_rates());
    options_.drop_rate = detail::magnitude(drop_rate);
  }

  std::vector<double> costs_;
  std::vector<double> rates_;
  DropOptions options_;
  SamplingPolicy sampling_;
  typename SamplingPolicy::Prepared prepared_;
  double total_cost_ = 0.0;
  std::uint64_t rates_hash_ = 0;
};

DROPBP_NAMESPACE_END
