// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Which parts of a flat array of parameters a step trains: for optimizers that run over one array.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "dropbp/base/error.hpp"
#include "dropbp/base/view.hpp"
#include "dropbp/plan.hpp"

DROPBP_NAMESPACE_BEGIN

/// A tensor in a flat array of parameters. One whose first dimension is the layer is one entry with
/// `layers` equal parts, one after the other; the branch of each part is `branch_step` above that
/// of the part before.
struct ParameterTensor {
  std::size_t branch = 0;       ///< of the first part, or ParameterRanges::always or never
  std::size_t offset = 0;       ///< of the first element in the array
  std::size_t count = 0;        ///< elements of one part
  std::size_t layers = 1;       ///< number of parts
  std::size_t branch_step = 1;  ///< 2 where attention and MLP are branches in turns
};

/// A part of the array that a step has trained.
struct TrainedRange {
  std::size_t branch;         ///< whose parameters these are; ParameterRanges::always for the rest
  std::size_t offset;         ///< of the first element
  std::size_t count;          ///< number of elements
  std::uint64_t updates;      ///< steps that have trained it, with this one: Adam's bias correction
  std::uint64_t micro_steps;  ///< of this step that have added to its gradient: for means
};

/// Not part of dropbp.hpp: include this header for it.
///
/// Splits a flat array of parameters into those of each branch and the rest, and tells after each
/// step which of them have a gradient:
///   dropbp::ParameterRanges ranges{branches, parameter_count};
///   ranges.add({.branch = 0, .offset = 0, .count = hidden, .layers = layers, .branch_step = 2});
///   ...
///   for (const dropbp::TrainedRange& range : ranges.end_step(plan)) ...
/// With gradient accumulation observe(plan) hears of each micro-step, and end_step() ends the step.
/// What no tensor covers belongs to no branch and is trained in every step.
class ParameterRanges {
 public:
  /// In place of a branch: trained in every step.
  static constexpr std::size_t always = ~std::size_t{0};
  /// In place of a branch: frozen.
  static constexpr std::size_t never = always - 1;

  /// Of an empty array.
  ParameterRanges() = default;

  /// `plan_size`: branches of the plans. `array_size`: elements of the array.
  DROPBP_LAZY
  ParameterRanges(std::size_t plan_size, std::size_t array_size)
      : updates_(plan_size), kept_(plan_size), parameters_(array_size), trained_(1) {}

  std::size_t size() const noexcept { return updates_.size(); }    ///< number of branches
  std::size_t parameters() const noexcept { return parameters_; }  ///< elements of the array
  std::uint64_t steps() const noexcept { return steps_; }          ///< that have ended

  /// Assigns a tensor's elements. Returns the offset behind them, where the next tensor may begin.
  /// Throws std::invalid_argument, with all as it was, for an empty tensor, a branch that does not
  /// exist, elements beyond the array, or elements that another tensor has.
  DROPBP_LAZY
  std::size_t add(const ParameterTensor& tensor) {
    require_valid(tensor);
    const std::size_t end = tensor.offset + tensor.count * tensor.layers;
    std::size_t at = 0;
    while (at < ranges_.size() && ranges_[at].offset < tensor.offset) ++at;
    if (at > 0 && ranges_[at - 1].end() > tensor.offset)
      throw_overlap(tensor.offset, end, ranges_[at - 1]);
    if (at < ranges_.size() && ranges_[at].offset < end)
      throw_overlap(tensor.offset, end, ranges_[at]);

    const bool of_branches = tensor.branch < size();
    std::vector<Range> ranges(ranges_.begin(), ranges_.begin() + static_cast<std::ptrdiff_t>(at));
    for (std::size_t layer = 0; layer < tensor.layers; ++layer)
      ranges.push_back({of_branches ? tensor.branch + layer * tensor.branch_step : tensor.branch,
                        tensor.offset + layer * tensor.count, tensor.count});
    for (; at < ranges_.size(); ++at) ranges.push_back(ranges_[at]);
    trained_.resize(2 * ranges.size() + 1);  // end_step allocates nothing
    ranges_ = std::move(ranges);
    return end;
  }

  /// Calls visit(branch, offset, count) for each part of each tensor and for each gap between them,
  /// which belongs to no branch (`always`), in ascending order. Frozen parts are left out.
  template <class Visit>
  void for_each_range(Visit&& visit) const {
    std::size_t begin = 0;
    for (const Range& range : ranges_) {
      if (begin < range.offset) visit(always, begin, range.offset - begin);
      begin = range.end();
      if (range.branch != never) visit(range.branch, range.offset, range.count);
    }
    if (begin < parameters_) visit(always, begin, parameters_ - begin);
  }

  /// A micro-step of the current step had this plan. Throws std::invalid_argument for a plan of
  /// another number of branches, and std::logic_error for one of another step than those before or
  /// one that was never drawn.
  DROPBP_LAZY
  void observe(const DropPlan& plan) {
    detail::require_plan_of(plan, size());
    if (micro_steps_ != 0 && plan.step() != step_)
      detail::throw_order(
          "the plans between two ends of a step must be of one step",
          "step " + detail::text(plan.step()) + " follows step " + detail::text(step_),
          "call end_step() after the last micro-step, or skip_step() where the "
          "optimizer does not run");
    if (micro_steps_ == 0)
      for (std::uint32_t& kept : kept_) kept = 0;
    for (std::size_t i = 0; i < size(); ++i) kept_[i] += plan.kept(i);
    ++micro_steps_;
    step_ = plan.step();
  }

  /// Counts the update of this step, and returns what it trains: the parameters of the branches
  /// that a plan kept and what is always trained, in ascending order; an entry for each part of
  /// each tensor and for each gap between them. It is valid until the next call of add or end_step.
  /// Throws std::logic_error where no plan was observed.
  DROPBP_LAZY
  std::span<const TrainedRange> end_step() {
    if (micro_steps_ == 0)
      detail::throw_order("a step must have a plan before it ends", "none was observed",
                          "call observe(plan) in every micro-step");
    const std::uint32_t micro_steps = micro_steps_;
    micro_steps_ = 0;
    ++steps_;
    for (std::size_t i = 0; i < size(); ++i) updates_[i] += kept_[i] != 0;
    std::size_t used = 0;
    for_each_range([&](std::size_t branch, std::size_t offset, std::size_t count) {
      const bool is_rest = branch == always;
      if (is_rest || kept_[branch] != 0)
        trained_[used++] = {branch, offset, count, is_rest ? steps_ : updates_[branch],
                            is_rest ? micro_steps : kept_[branch]};
    });
    return {trained_.data(), used};
  }

  /// The same where `plan` is that of the step's only micro-step, or of its last.
  DROPBP_LAZY
  std::span<const TrainedRange> end_step(const DropPlan& plan) {
    observe(plan);
    return end_step();
  }

  /// The optimizer leaves this step out, for example after an overflow: nothing is counted.
  void skip_step() noexcept { micro_steps_ = 0; }

  /// Steps that have trained the branch. Throws std::invalid_argument for one that does not exist.
  DROPBP_LAZY
  std::uint64_t updates(std::size_t branch) const {
    if (branch == always) return steps_;
    if (branch >= size()) throw_branch(branch);
    return updates_[branch];
  }

  /// The counts, for a checkpoint.
  struct State {
    std::uint64_t steps = 0;                        ///< that have ended
    std::vector<std::uint64_t> updates;             ///< of each branch
    bool operator==(const State&) const = default;  ///< of all fields
  };

  /// Take it between two steps.
  DROPBP_LAZY
  State state() const { return {steps_, updates_}; }

  /// Goes on from a saved state. Throws std::invalid_argument, with all as it was, for one of
  /// another number of branches, or with more updates than steps.
  DROPBP_LAZY
  void restore(const State& state) {
    detail::require_count(state.updates.size(), size(), "number of updates in a state");
    for (std::size_t i = 0; i < size(); ++i)
      if (state.updates[i] > state.steps)
        detail::throw_invalid(
            "a branch must have at most one update in each step (" + detail::text(state.steps) +
                ")",
            "branch " + detail::text(i) + " has " + detail::text(state.updates[i]),
            "restore from an intact copy");
    std::vector<std::uint64_t> updates = state.updates;
    updates_ = std::move(updates);
    steps_ = state.steps;
    micro_steps_ = 0;
  }

 private:
  struct Range {
    std::size_t branch, offset, count;
    std::size_t end() const { return offset + count; }
  };

  DROPBP_LAZY
  [[noreturn]] void throw_branch(std::size_t branch) const {
    detail::throw_invalid("the parameters of a branch must be of one numbered below " +
                              detail::text(size()) + ", the number of branches",
                          "it is " + detail::text(branch),
                          "number the branches from 0 in the order of the forward pass, or pass "
                          "ParameterRanges::always or never (in C: DROPBP_ALWAYS, DROPBP_NEVER)");
  }

  DROPBP_LAZY
  void require_valid(const ParameterTensor& tensor) const {
    if (tensor.count == 0 || tensor.layers == 0)
      detail::throw_invalid(
          "a tensor of parameters must have elements",
          "it has " + detail::text(tensor.layers) + " parts of " + detail::text(tensor.count),
          "leave an empty one out");
    const std::size_t room = tensor.offset < parameters_ ? parameters_ - tensor.offset : 0;
    if (tensor.count > room / tensor.layers)
      detail::throw_invalid(
          "a tensor of parameters must end within the array of " + detail::text(parameters_),
          "it has " + detail::text(tensor.layers) + " parts of " + detail::text(tensor.count) +
              " from " + detail::text(tensor.offset) + " on",
          "pass offset and count in elements, not in bytes");
    if (tensor.branch == always || tensor.branch == never) return;
    if (tensor.branch >= size()) throw_branch(tensor.branch);
    // The first part whose branch does not exist.
    const std::size_t above = size() - 1 - tensor.branch;
    if (tensor.branch_step != 0 && tensor.layers - 1 > above / tensor.branch_step)
      throw_branch(tensor.branch + (above / tensor.branch_step + 1) * tensor.branch_step);
  }

  DROPBP_LAZY
  [[noreturn]] static void throw_overlap(std::size_t begin, std::size_t end, const Range& other) {
    detail::throw_invalid("no parameter may belong to two tensors",
                          "elements " + detail::text(begin) + " to " + detail::text(end - 1) +
                              " overlap those from " + detail::text(other.offset) + " to " +
                              detail::text(other.end() - 1) + ", which were added before",
                          "check offset, count and layers");
  }

  std::vector<Range> ranges_;           // ascending, without overlap
  std::vector<std::uint64_t> updates_;  // of each branch
  std::vector<std::uint32_t> kept_;     // micro-steps of the current step
  std::size_t parameters_ = 0;
  std::vector<TrainedRange> trained_;  // what end_step returns, with room for all
  std::uint64_t steps_ = 0;
  std::uint64_t step_ = 0;         // of the plans that were observed
  std::uint32_t micro_steps_ = 0;  // that were observed since the last step ended
};

DROPBP_NAMESPACE_END
