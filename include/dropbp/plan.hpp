// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// DropPlan: which branches keep their backward pass in one micro-step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "dropbp/base/error.hpp"
#include "dropbp/base/hash.hpp"
#include "dropbp/base/view.hpp"

DROPBP_NAMESPACE_BEGIN

namespace detail {

// Throws unless DropOptions::parents has one valid index per branch and no cycles.
DROPBP_LAZY
inline void require_parents(std::span<const std::uint32_t> parents, std::size_t size) {
  require_count(parents.empty() ? size : parents.size(), size, "entry of DropOptions::parents");
  for (std::size_t i = 0; i < parents.size(); ++i)
    if (parents[i] >= size)
      throw_invalid("the parent of a branch is a branch, numbered below " + text(size),
                    "that of branch " + text(i) + " is " + text(std::uint64_t{parents[i]}),
                    "give a branch that is nested in none its own number");
  for (std::size_t i = 0; i < parents.size(); ++i) {
    std::size_t ancestor = i;
    for (std::size_t depth = 0; depth < size && parents[ancestor] != ancestor; ++depth)
      ancestor = parents[ancestor];
    if (parents[ancestor] != ancestor)
      throw_invalid("a branch must not be nested in itself",
                    "the parents of branch " + text(i) + " go round in a circle",
                    "name the branch whose forward pass calls it, and its own number where none "
                    "does");
  }
}

DROPBP_LAZY
inline void require_next_step(std::uint64_t step) {
  if (step == ~std::uint64_t{0})
    throw_invalid("a step must be below 2^64 - 1, for a next one to follow", "it is " + text(step),
                  "count steps from 0");
}

DROPBP_LAZY
[[noreturn]] inline void throw_not_drawn() {
  throw_order("a plan must be drawn before it is asked",
              "this one was default-constructed or was moved from",
              "assign what DropSchedule::plan(step) returns to it before the forward pass");
}

struct PlanBuilder;

}  // namespace detail

/// How often a plan is drawn if an optimizer step has several micro-steps (gradient accumulation).
enum class PlanPer : std::uint8_t {
  micro_step,  ///< each micro-step has its own plan: a branch is rarely without a gradient
  step  ///< all micro-steps share one plan: a dropped branch is dropped for the whole optimizer
        ///< step
};

/// Which residual branches are dropped in one micro-step: a value, independent of any model.
/// Branches are numbered in the order of the forward pass, so lower branches come earlier. Queries
/// about a branch beyond size() throw std::invalid_argument.
class DropPlan {
 public:
  /// A plan without branches.
  DropPlan() = default;

  /// Properties of a plan besides its decisions.
  struct Context {
    /// Something below the lowest branch is trainable (an embedding), so its gradient is needed.
    bool trainable_below = true;
    std::uint64_t step = 0;        ///< optimizer step
    std::uint32_t micro_step = 0;  ///< within the step, from 0
    std::uint64_t rates_hash = 0;  ///< distinguishes plans that were drawn from different rates
    /// One entry per branch: its group, numbered from 0. Empty: one group.
    std::span<const std::uint32_t> groups = {};
    /// One entry per branch: 0 if none of its parameters is trainable, otherwise 1. Empty: all are
    /// trainable.
    std::span<const std::uint8_t> trainable = {};
    /// One entry per branch: the branch that it is nested in, or itself. Empty: none is nested.
    std::span<const std::uint32_t> parents = {};
  };

  /// A plan from a mask: one byte per branch, non-zero if dropped. Branches nested in a dropped
  /// branch (`parents` as in DropOptions) are also dropped.
  DROPBP_LAZY
  explicit DropPlan(std::span<const std::uint8_t> dropped, bool trainable_below = true,
                    std::uint64_t step = 0, std::uint32_t micro_step = 0,
                    std::uint64_t rates_hash = 0, std::span<const std::uint32_t> groups = {},
                    std::span<const std::uint32_t> parents = {}) {
    set(dropped, {trainable_below, step, micro_step, rates_hash, groups, {}, parents});
  }

  /// The same with all properties of a plan. If nothing below the branches is trainable, the
  /// branches below the lowest kept trainable one are also dropped, because nothing uses their
  /// gradients. A branch counts as trainable if a kept trainable branch is nested in it.
  DROPBP_LAZY
  DropPlan(std::span<const std::uint8_t> dropped, const Context& context) { set(dropped, context); }

  /// Keeps every one of `size` branches in this step.
  DROPBP_LAZY
  static DropPlan keep_all(std::size_t size, std::uint64_t step = 0) {
    const std::vector<std::uint8_t> dropped(size, 0);
    return DropPlan(detail::view(dropped), Context{.step = step});
  }

  /// Drops every one of `size` branches in this step.
  DROPBP_LAZY
  static DropPlan drop_all(std::size_t size, std::uint64_t step = 0) {
    const std::vector<std::uint8_t> dropped(size, 1);
    return DropPlan(detail::view(dropped), Context{.step = step});
  }

  std::size_t size() const noexcept { return slots_.size(); }        ///< number of branches
  std::uint64_t step() const noexcept { return step_; }              ///< optimizer step
  std::uint32_t micro_step() const noexcept { return micro_step_; }  ///< within the step, from 0

  /// Whether the branch needs no backward pass.
  bool dropped(std::size_t branch) const { return slot_of(branch) == no_slot; }
  /// Whether the branch needs its backward pass.
  bool kept(std::size_t branch) const { return !dropped(branch); }

  std::size_t kept_count() const noexcept { return kept_count_; }              ///< in all groups
  std::size_t dropped_count() const noexcept { return size() - kept_count_; }  ///< in all groups
  bool all_dropped() const noexcept { return kept_count_ == 0; }  ///< no branch is kept

  /// The lowest kept branch that is not nested; size() if all are dropped. If nothing below the
  /// branches is trainable, the backward pass may stop there.
  std::size_t lowest_kept() const noexcept { return lowest_kept_; }

  /// Whether the branches need a backward pass: one is kept, or something below them is trainable.
  bool backward_needed() const noexcept { return trainable_below_ || !all_dropped(); }

  /// Whether the branch must compute the gradient of its input, because a kept branch or a trained
  /// parameter below it uses it. False for a dropped branch, which computes nothing.
  bool input_gradient_needed(std::size_t branch) const {
    return kept(branch) && (trainable_below_ || branch != lowest_kept_);
  }

  /// Index of a kept branch's activations in an arena of its group: 0 for the group's lowest kept
  /// branch, increasing upwards, always below DropSchedule::max_kept(group). Throws
  /// std::invalid_argument for a dropped branch, which has no slot.
  DROPBP_LAZY
  std::size_t slot(std::size_t branch) const {
    const std::uint32_t slot = slot_of(branch);
    if (slot == no_slot)
      detail::throw_invalid(
          "a slot belongs to a kept branch", "branch " + detail::text(branch) + " is dropped",
          "ask slot_or, which names the scratch for it, or ask first whether it is "
          "dropped");
    return slot;
  }

  /// slot(branch), or `scratch` for a dropped branch: where its forward pass may compute, one
  /// branch after the other, because nothing reads it afterwards. Where the arena has
  /// DropSchedule::slot_count(group) slots, the last one is the scratch. Throws
  /// std::invalid_argument where a kept branch would save above the scratch, or in it while another
  /// branch of its group computes there: the arena is of rates that keep fewer branches.
  DROPBP_LAZY
  std::size_t slot_or(std::size_t branch, std::size_t scratch) const {
    const std::uint32_t slot = slot_of(branch);
    if (slot == no_slot) return scratch;
    if (std::size_t{slot} + beside_dropped_[branch] > scratch)
      detail::throw_invalid(
          "an arena must have a slot for each kept branch, and one for all dropped ones",
          "branch " + detail::text(branch) + " has slot " + detail::text(slot) +
              ", and the scratch is slot " + detail::text(scratch),
          "make the arena after the rates have changed or a state was restored, with as many slots "
          "as slot_count (in C: dropbp_schedule_slots) then says");
    return slot;
  }

  /// A hash of the rates that it was drawn from; 0 for a plan from a mask.
  std::uint64_t rates_hash() const noexcept { return rates_hash_; }

  /// A 64-bit hash of (step, micro-step, size, rates, decisions). If it differs between ranks, the
  /// ranks have diverged.
  std::uint64_t fingerprint() const noexcept {
    using detail::mix;
    std::uint64_t hash = mix(mix(mix(mix(0, step_), micro_step_), size()), rates_hash_);
    hash = mix(hash, trainable_below_ ? 1 : 0);
    std::uint64_t word = 0;
    for (std::size_t i = 0; i < size(); ++i) {
      word = (word << 1) | (slots_[i] == no_slot ? 1u : 0u);
      if (i % 64 == 63 || i + 1 == size()) hash = mix(hash, word), word = 0;
    }
    return hash;
  }

  /// Whether step, rates and decisions are equal.
  DROPBP_LAZY
  bool operator==(const DropPlan& other) const noexcept {
    return slots_ == other.slots_ && trainable_below_ == other.trainable_below_ &&
           step_ == other.step_ && micro_step_ == other.micro_step_ &&
           rates_hash_ == other.rates_hash_;
  }

 private:
  static constexpr std::uint32_t no_slot = 0xFFFFFFFFu;

  friend struct detail::PlanBuilder;

  DROPBP_LAZY
  void set(std::span<const std::uint8_t> dropped, const Context& context) {
    redraw(dropped.size(), context, [&](std::span<std::uint8_t> mask, std::span<std::uint32_t>) {
      for (std::size_t i = 0; i < mask.size(); ++i) mask[i] = dropped[i];
    });
  }

  // See detail::PlanBuilder.
  template <class Draw>
  void redraw(std::size_t size, const Context& context, Draw&& draw) {
    detail::require_count(context.groups.empty() ? size : context.groups.size(), size,
                          "group number");
    detail::require_count(context.trainable.empty() ? size : context.trainable.size(), size,
                          "entry of DropPlan::Context::trainable");
    detail::require_parents(context.parents, size);
    dropped_.resize(size);
    slots_.resize(size);
    draw(detail::view(dropped_), detail::view(slots_));
    drop_nested(context.parents);
    if (!context.trainable_below && !context.trainable.empty()) drop_unused(context);
    number_slots(context);
    note_scratch_users(context);
    trainable_below_ = context.trainable_below;
    step_ = context.step;
    micro_step_ = context.micro_step;
    rates_hash_ = context.rates_hash;
  }

  DROPBP_LAZY
  void drop_nested(std::span<const std::uint32_t> parents) {
    for (std::size_t i = 0; i < parents.size(); ++i)
      for (std::size_t at = i; dropped_[i] == 0 && parents[at] != at;) {
        at = parents[at];
        dropped_[i] = dropped_[at];
      }
  }

  // Drops the branches below the lowest kept branch that is trainable or contains a kept trainable
  // branch.
  DROPBP_LAZY
  void drop_unused(const Context& context) {
    const auto parent = [&](std::size_t i) {
      return context.parents.empty() ? i : context.parents[i];
    };
    for (std::uint32_t& is_used : slots_) is_used = 0;
    for (std::size_t i = 0; i < size(); ++i) {
      std::size_t outermost = i;
      while (parent(outermost) != outermost) outermost = parent(outermost);
      if (dropped_[i] == 0 && context.trainable[i] != 0) slots_[outermost] = 1;
    }
    for (std::size_t i = 0; i < size() && (parent(i) != i || slots_[i] == 0); ++i)
      if (parent(i) == i) dropped_[i] = 1;
    drop_nested(context.parents);
  }

  DROPBP_LAZY
  void number_slots(const Context& context) {
    for (std::uint32_t& kept : kept_of_group_) kept = 0;
    kept_count_ = 0;
    lowest_kept_ = size();
    for (std::size_t i = 0; i < size(); ++i) {
      const std::uint32_t group = context.groups.empty() ? 0 : context.groups[i];
      if (group >= kept_of_group_.size()) kept_of_group_.resize(group + std::size_t{1});
      if (dropped_[i] != 0) {
        slots_[i] = no_slot;
        continue;
      }
      slots_[i] = kept_of_group_[group]++;
      ++kept_count_;
      if (lowest_kept_ == size() && (context.parents.empty() || context.parents[i] == i))
        lowest_kept_ = i;
    }
  }

  // Notes for each branch whether a branch of its group is dropped and computes in the scratch.
  DROPBP_LAZY
  void note_scratch_users(const Context& context) {
    const auto group = [&](std::size_t i) {
      return context.groups.empty() ? 0 : context.groups[i];
    };
    for (std::uint32_t& any_dropped : kept_of_group_) any_dropped = 0;
    for (std::size_t i = 0; i < size(); ++i)
      if (dropped_[i] != 0) kept_of_group_[group(i)] = 1;
    beside_dropped_.resize(size());
    for (std::size_t i = 0; i < size(); ++i)
      beside_dropped_[i] = static_cast<std::uint8_t>(kept_of_group_[group(i)]);
  }

  DROPBP_LAZY
  std::uint32_t slot_of(std::size_t branch) const {
    if (size() == 0) detail::throw_not_drawn();
    if (branch >= size())
      detail::throw_invalid("a branch of this plan is numbered below " + detail::text(size()),
                            "branch " + detail::text(branch) + " was asked for",
                            "number the branches from 0 in the order of the forward pass");
    return slots_[branch];
  }

  std::vector<std::uint32_t> slots_;
  std::vector<std::uint8_t> beside_dropped_;  // by branch: 1 if one of its group is dropped
  std::vector<std::uint8_t> dropped_;         // working space of redraw
  std::vector<std::uint32_t> kept_of_group_;  // working space of redraw
  std::size_t kept_count_ = 0;
  std::size_t lowest_kept_ = 0;
  std::uint64_t step_ = 0;
  std::uint64_t rates_hash_ = 0;
  std::uint32_t micro_step_ = 0;
  bool trainable_below_ = true;
};

namespace detail {

// Changes a plan in place, for the schedule, the handler and tests.
struct PlanBuilder {
  // Replaces the plan and reuses its memory. draw(dropped, work) sets one byte per branch, non-zero
  // if dropped; `work` has one word of working space per branch.
  template <class Draw>
  static void redraw(DropPlan& plan, std::size_t size, const DropPlan::Context& context,
                     Draw&& draw) {
    plan.redraw(size, context, draw);
  }

  // Reserves memory for plans of this size and these groups; the plan becomes empty.
  DROPBP_LAZY
  static void reserve(DropPlan& plan, std::size_t size, std::span<const std::uint32_t> groups) {
    const auto nothing = [](std::span<std::uint8_t>, std::span<std::uint32_t>) {};
    plan.redraw(size, {.groups = groups}, nothing);
    plan.redraw(0, {}, nothing);
  }

  // Keeps the decisions for another micro-step.
  static void set_micro_step(DropPlan& plan, std::uint32_t micro_step) noexcept {
    plan.micro_step_ = micro_step;
  }
};

// Throws std::logic_error for a plan that was never drawn, and std::invalid_argument for one of
// another number of branches.
DROPBP_LAZY
inline void require_plan_of(const DropPlan& plan, std::size_t branches) {
  if (plan.size() == 0 && branches != 0) throw_not_drawn();
  require_count(plan.size(), branches, "decision in a plan");
}

// Counts of the steps, one number per branch.
struct PlanCounts {
  DROPBP_LAZY
  explicit PlanCounts(std::size_t size) : kept_in_step(size), kept(size), dropped(size) {}

  DROPBP_LAZY
  void count(const DropPlan& plan, bool begins_step) {
    next_step = plan.step() + 1;
    ++micro_steps;
    for (std::size_t i = 0; i < plan.size(); ++i) {
      const bool is_kept = plan.kept(i);
      ++(is_kept ? kept : dropped)[i];
      if (begins_step) kept_in_step[i] = 0;
      kept_in_step[i] += is_kept;
    }
  }

  std::vector<std::uint32_t> kept_in_step;  // micro-steps since begin_step
  std::vector<std::uint64_t> kept;          // micro-steps in all steps
  std::vector<std::uint64_t> dropped;
  std::uint64_t next_step = 0;
  std::uint64_t micro_steps = 0;  // in all steps
};

DROPBP_LAZY
inline void require_later_micro_step(std::uint32_t micro_step, const DropPlan& plan) {
  if (micro_step <= plan.micro_step())
    throw_order("the micro-steps of a step must be numbered upwards, begin_step being number 0",
                "number " + text(std::uint64_t{micro_step}) + " follows number " +
                    text(std::uint64_t{plan.micro_step()}),
                "call begin_micro_step(1), then 2 and so on, or begin_step for a new step");
}

DROPBP_LAZY
inline void require_micro_step_of(const DropPlan& plan, const DropPlan& last) {
  if (plan.step() != last.step())
    throw_order("the plans of all micro-steps must be of the step that has begun (" +
                    text(last.step()) + ")",
                "this one is of step " + text(plan.step()),
                "give it that step's number, or call begin_step for a new step");
  require_later_micro_step(plan.micro_step(), last);
}

// Throws if the plan was made without the schedule's parents: a kept branch then has a dropped
// parent, or the lowest kept branch is a nested one.
template <class Schedule>
void require_parents_kept(const DropPlan& plan, const Schedule& schedule) {
  bool agrees = plan.all_dropped() || schedule.parent(plan.lowest_kept()) == plan.lowest_kept();
  for (std::size_t i = 0; i < plan.size(); ++i)
    agrees = agrees && (plan.dropped(i) || plan.kept(schedule.parent(i)));
  if (!agrees)
    throw_invalid("a plan for nested branches must be made with DropOptions::parents",
                  "this one takes no account of them",
                  "hand the parents to the plan's constructor or DropPlan::Context, or let a "
                  "DropSchedule draw it");
}

}  // namespace detail
DROPBP_NAMESPACE_END
