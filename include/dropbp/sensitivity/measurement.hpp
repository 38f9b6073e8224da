// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The scope of a measurement: the layers' calls are counted from zero; at its end, counts and
// decisions are restored.
#pragma once

#include <concepts>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "dropbp/base/error.hpp"
#include "dropbp/model.hpp"
#include "dropbp/policy/sensitivity.hpp"

DROPBP_NAMESPACE_BEGIN
namespace detail {

// A friend of the handler. During its lifetime, functions that begin a step or change rates throw.
template <class Handler>
class Measurement {
 public:
  explicit Measurement(Handler& handler)
      : handler_(handler), phase_before_(checked_phase(handler)) {
    std::vector<BranchCalls> calls(handler.size());
    for_each([&](auto& layer, std::size_t i) { calls[i] = layer.calls(); });
    handler.calls_before_.swap(calls);
    handler.phase_ = Phase::measuring;
    call_or_undo(
        [&] { for_each([](auto& layer, std::size_t) { layer.set_calls(BranchCalls{}); }); },
        [&] { put_back(); });
  }
  Measurement(const Measurement&) = delete;
  Measurement& operator=(const Measurement&) = delete;
  ~Measurement() { put_back(); }

  // Call it after a successful measurement. Unlike the destructor it may throw, because no other
  // exception is active.
  void end() {
    handler_.phase_ = phase_before_;
    handler_.put_layers_back();
  }

  auto& model() const { return handler_.branches_.model(); }

  template <class Visit>
  void for_each(Visit visit) const {
    handler_.branches_.for_each(visit);
  }

  // Drops this branch and the branches nested in it, and keeps all others; size() drops none.
  void drop_only(std::size_t dropped, bool retains_saved = false) const {
    const auto& schedule = handler_.schedule();
    handler_.branches_.decide([&](std::size_t i) {
      while (i != dropped && schedule.parent(i) != i) i = schedule.parent(i);
      return BranchDecision{.dropped = i == dropped,
                            .input_gradient_needed = i != dropped,
                            .retains_saved = retains_saved};
    });
  }

  void require_passes() const {
    bool passed = false;
    for_each([&](auto& layer, std::size_t) {
      const BranchCalls calls = layer.calls();
      passed = passed || (calls.forward != 0 && calls.backward != 0);
    });
    if (!passed)
      throw_order("backprop must run a forward and a backward pass through the handler's model",
                  "none of its layers ran both",
                  "let it use the layers that for_each_layer visits");
  }

 private:
  using Phase = typename Handler::Phase;

  static Phase checked_phase(Handler& handler) {
    handler.require_no_measurement();
    return handler.phase_;
  }

  // Restores the layers if end() did not, so an exception may be active. If this fails, the next
  // call that begins a step, an evaluation or a measurement tries again.
  void put_back() noexcept {
    handler_.phase_ = phase_before_;
    if (handler_.calls_before_.empty()) return;
    call_quietly([&] { handler_.put_layers_back(); });
  }

  Handler& handler_;
  Phase phase_before_;
};

// These are called in static_asserts, so that their messages come before the compiler's own.
template <class ModelType, class SensitivityPolicy>
constexpr bool require_measurable() {
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
constexpr bool require_backprop() {
  static_assert(
      requires(Backprop& backprop) { backprop(); },
      "dropbp: the first argument of a measurement is backprop, a function that is called "
      "without arguments: a lambda [&] { ... } that captures its batch.");
  return true;
}

inline void require_finite_sensitivity(double sensitivity, const std::string& dropped) {
  if (!is_finite(sensitivity))
    throw_outside("gradients must be finite while sensitivities are measured",
                  "in the pass with " + dropped + " dropped one was not, or overflowed",
                  "look at the loss and its scale");
}

// `reference` is that of the current gradients, so the difference is 0 unless a gradient is not
// finite.
template <class ModelType, class SensitivityPolicy>
void require_finite_reference(ModelType& model, const SensitivityPolicy& policy,
                              const typename SensitivityPolicy::Reference& reference) {
  require_finite_sensitivity(policy.difference(reference, model), "nothing");
}

// The sensitivity of a branch, from the gradients of the pass that dropped it.
template <class ModelType, class SensitivityPolicy>
double finite_difference(ModelType& model, const SensitivityPolicy& policy,
                         const typename SensitivityPolicy::Reference& reference,
                         std::size_t branch) {
  const double sensitivity = policy.difference(reference, model);
  require_finite_sensitivity(sensitivity, "branch " + text(branch));
  return sensitivity;
}

// `who` names a function of the handler, `instead` what to call for nested branches.
template <class Schedule>
void require_one_after_another(const Schedule& schedule, const char* who, const char* instead) {
  for (std::size_t i = 0; i < schedule.size(); ++i)
    if (schedule.parent(i) != i)
      throw_order(std::string(who) + " branches that follow one another",
                  "branch " + text(i) + " is nested in branch " + text(schedule.parent(i)),
                  instead);
}

}  // namespace detail
DROPBP_NAMESPACE_END
