// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The branches of a model, for a handler: it numbers them, visits them and passes decisions to
// them.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "dropbp/base/error.hpp"
#include "dropbp/model.hpp"
#include "dropbp/operation.hpp"
#include "dropbp/plan.hpp"

DROPBP_NAMESPACE_BEGIN
namespace detail {

template <class L>
concept has_clock = requires(L& layer) {
  layer.set_clock(ClockReference{});
  { layer.times() } -> std::convertible_to<BranchTimes>;
};

// Calls visit(layer, i) for every layer of the model, and returns their number.
template <class ModelType, class Visit>
std::size_t visit_layers(ModelType& model, Visit visit) {
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

template <class ModelType>
std::vector<double> layer_costs(ModelType& model) {
  std::vector<double> costs;
  visit_layers(
      model, [&](auto& layer, std::size_t) { costs.push_back(static_cast<double>(layer.cost())); });
  return costs;
}

// A model whose number of branches is fixed. Holds a reference to the model.
template <class ModelType>
class Branches {
 public:
  Branches(ModelType& model, std::size_t size) : model_(address_of(model)), size_(size) {}

  ModelType& model() const noexcept { return *model_; }

  // Calls visit(layer, i). Throws std::logic_error if the number of layers has changed.
  template <class Visit>
  void for_each(Visit visit) const {
    const std::size_t count = visit_layers(*model_, [&](auto& layer, std::size_t i) {
      if (i < size_) visit(layer, i);
    });
    if (count != size_)
      throw_order(
          "a model must keep the layers that its handler was made for (" + text(size_) + ")",
          "for_each_layer visited " + text(count), "make a new handler for the changed model");
  }

  // Checked before the first change, so that a failure leaves the handler unchanged.
  void require_unchanged() const {
    for_each([](auto&, std::size_t) {});
  }

  // Passes decision_of(i) to each branch i, all with one new stamp. Neither this nor its callers
  // allocate.
  template <class DecisionOf>
  void decide(DecisionOf decision_of) const {
    const std::uint64_t stamp = next_stamp();
    for_each([&](auto& layer, std::size_t i) {
      BranchDecision decision = decision_of(i);
      decision.stamp = stamp;
      layer.decide(decision);
    });
  }

  // Passes the decisions of a plan. `scales`: one gradient scale per branch.
  void tell(const DropPlan& plan, std::span<const double> scales, bool observes_stream) const {
    decide([&](std::size_t i) {
      return BranchDecision{.dropped = plan.dropped(i),
                            .input_gradient_needed = plan.input_gradient_needed(i),
                            .observes_stream = observes_stream,
                            .gradient_scale = scales[i]};
    });
  }

  void tell_evaluation() const {
    decide([](std::size_t) { return BranchDecision{.saves = false}; });
  }

  // Tells every branch that it is kept, as before its first handler.
  void tell_all_kept() const {
    decide([](std::size_t) { return BranchDecision{}; });
  }

  // How often each branch ran. If `saved` is not empty, it holds the counts from before a
  // measurement.
  std::vector<BranchCalls> calls(const std::vector<BranchCalls>& saved) const {
    std::vector<BranchCalls> calls(size_);
    for_each([&](auto& layer, std::size_t i) {
      calls[i] = saved.empty() ? BranchCalls(layer.calls()) : saved[i];
    });
    return calls;
  }

  // Asks the layers that have trainable(); for the others the schedule's value stays.
  template <class Schedule>
  void update_trainable(Schedule& schedule) const {
    for_each([&](auto& layer, std::size_t i) {
      if constexpr (can_ask<bool, Trainable, std::remove_reference_t<decltype(layer)>>)
        schedule.set_trainable(i, static_cast<bool>(layer.trainable()));
    });
  }

  // Restores the counts, releases what is saved and removes the clock.
  void end_measurement(const std::vector<BranchCalls>& calls) const {
    for_each([&](auto& layer, std::size_t i) {
      layer.set_calls(BranchCalls(calls[i]));
      if constexpr (requires { layer.release(); }) layer.release();
      if constexpr (has_clock<decltype(layer)>) layer.set_clock(ClockReference{});
    });
  }

 private:
  ModelType* model_;
  std::size_t size_;
};

// What a handler says about calls in the wrong order.

DROPBP_LAZY
inline void require_not_moved_from(std::size_t branches) {
  if (branches == 0)  // only a moved-from handler has no branch
    throw_order("a handler drives its model until it is moved from", "this one was moved from",
                "use the one that it was moved to");
}

DROPBP_LAZY
[[noreturn]] inline void throw_not_begun() {
  throw_order("this call belongs to a step",
              "none has begun since the handler was made or restored",
              "call begin_step(step) first");
}

DROPBP_LAZY
[[noreturn]] inline void throw_within_measurement() {
  throw_order(
      "while a measurement runs, the handler cannot begin a step or measurement, change rates, "
      "costs or estimates, or give its report or state",
      "backprop asked for one of these",
      "let backprop only clear the gradients and run one forward and one backward pass");
}

}  // namespace detail
DROPBP_NAMESPACE_END
