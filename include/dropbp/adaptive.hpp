// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// AdaptiveHandler: a handler that finds the drop rates by itself, from ordinary training steps.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "dropbp/base/error.hpp"
#include "dropbp/base/view.hpp"
#include "dropbp/dropbp_fwd.hpp"
#include "dropbp/handler.hpp"
#include "dropbp/policy/running_sensitivity.hpp"
#include "dropbp/policy/sharp_allocation.hpp"

DROPBP_NAMESPACE_BEGIN

/// The times of an AdaptiveHandler.
struct AdaptiveOptions {
  std::uint64_t steps = 0;  ///< of the whole training, at least 1
  /// Steps without drops before the first allocation. 0: 3 % of the steps, at least 3.
  std::uint64_t first = 0;
  /// Steps between allocations. 0: a tenth of the steps, at least 2 and at most 100.
  std::uint64_t period = 0;
};

namespace detail {

DROPBP_LAZY
inline AdaptiveOptions completed(AdaptiveOptions times) {
  if (times.steps < 1)
    throw_invalid("an AdaptiveHandler must know the number of steps of the training, at least 1",
                  "AdaptiveOptions::steps is " + text(times.steps),
                  "pass the number after which the training ends");
  if (times.period == 1)
    throw_invalid("an AdaptiveHandler's period must be at least 2 steps", "it is 1",
                  "pass 2 or more, because one step of each period drops nothing");
  if (times.first == 0) times.first = times.steps < 100 ? 3 : (3 * (times.steps / 100));
  if (times.period == 0) {
    times.period = times.steps / 10;
    if (times.period < 2) times.period = 2;
    if (times.period > 100) times.period = 100;
  }
  return times;
}

}  // namespace detail

/// A DropBPHandler that drops nothing in the first steps, then allocates rates by running
/// sensitivities, and allocates again at intervals. The step before each further allocation drops
/// nothing, so that the estimates of rarely kept branches stay current. What happens in a step
/// depends on its number and the estimates alone. Call end_step after the last backward pass of
/// each step; all other calls are those of a DropBPHandler.
template <class ModelType, class AllocationPolicy, class SamplingPolicy>
class AdaptiveHandler : public DropBPHandler<ModelType, AllocationPolicy, SamplingPolicy> {
  using Base = DropBPHandler<ModelType, AllocationPolicy, SamplingPolicy>;

 public:
  /// `options.drop_rate` is the target rate of the steps that drop. Throws as DropBPHandler does,
  /// and std::invalid_argument for 0 steps, a period of 1 step, or a warm-up, which the first steps
  /// without drops replace.
  AdaptiveHandler(ModelType& model, AdaptiveOptions times, DropOptions options = {},
                  AllocationPolicy allocation = {}, SamplingPolicy sampling = {})
      : Base(model, std::move(options), std::move(allocation), std::move(sampling)),
        times_(detail::completed(times)),
        target_(Base::drop_rate()),
        running_(Base::size()) {
    if (Base::schedule().options().warmup_steps > 0)
      detail::throw_invalid(
          "an AdaptiveHandler has no warm-up of the rates",
          "DropOptions::warmup_steps is " + detail::text(Base::schedule().options().warmup_steps),
          "leave it 0: AdaptiveOptions::first steps drop nothing");
    Base::set_drop_rate(0.0);
    Base::observe_stream();
  }

  using Base::begin_step;  // with a plan, which allocates nothing

  /// Begins an optimizer step, after an allocation if one is due. Throws as DropBPHandler does, and
  /// std::logic_error if an allocation is due but no step has ended. If the allocation policy
  /// throws, all rates are 0 afterwards.
  void begin_step(std::uint64_t step) {
    detail::require_next_step(step);
    choose_rates(step);
    Base::begin_step(step);
  }

  /// Updates the estimates from this step's gradients; see DropBPHandler::observe_gradients.
  template <class = void>
  void end_step() {
    Base::observe_gradients(running_);
  }

  /// The same with the squared norms of the gradients of each branch's own parameters.
  template <class = void>
  void end_step(std::span<const double> squared_norms) {
    Base::observe_gradients(running_, squared_norms);
  }

  double target_rate() const noexcept { return target_; }  ///< of the steps that drop
  /// The times, with all defaults resolved.
  const AdaptiveOptions& times() const noexcept { return times_; }
  /// The estimates.
  const RunningSensitivity& running_sensitivity() const noexcept { return running_; }

  /// As that of DropBPHandler, with the estimates.
  HandlerState state() const {
    HandlerState state = Base::state();
    state.running = running_.state();
    return state;
  }

  /// Continues from a saved state; see DropBPHandler::restore. Pass the constructor the same times,
  /// target rate and policies as before. Throws std::invalid_argument, and changes nothing, also
  /// for a state without estimates or with estimates that no observations produce.
  void restore(const HandlerState& state) {
    RunningSensitivity running(Base::size());
    running.restore(state.running);
    HandlerState rest = state;
    rest.running = {};
    Base::restore(rest);
    running_ = std::move(running);
    Base::observe_stream();
  }

 private:
  // Whether rates are allocated before the step.
  bool due(std::uint64_t step) const noexcept {
    return step >= times_.first && (step - times_.first) % times_.period == 0;
  }

  void choose_rates(std::uint64_t step) {
    if (target_ == 0.0) return;
    const bool drops = step >= times_.first && !due(step + 1);
    if (!drops) {
      if (Base::drop_rate() != 0.0) Base::set_drop_rate(0.0);
      return;
    }
    if (!due(step) && Base::drop_rate() != 0.0) return;
    if (running_.state().step == 0)
      detail::throw_order(
          "an AdaptiveHandler must see the gradients of the steps before it "
          "allocates rates",
          "no step has ended before step " + detail::text(step),
          "call end_step() after the last backward pass of each step");
    Base::set_drop_rate(target_);
    const std::vector<double> sensitivities = running_.sensitivities();
    detail::call_or_undo([&] { Base::allocate(detail::view(sensitivities)); },
                         [&] { Base::set_drop_rate(0.0); });
  }

  AdaptiveOptions times_;
  double target_;
  RunningSensitivity running_;
};

DROPBP_NAMESPACE_END
