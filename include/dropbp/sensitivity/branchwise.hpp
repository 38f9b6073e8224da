// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Sensitivities from one forward pass. Dropping a branch changes no gradient above it, so the
// measurement of branch i starts from the gradient that the complete backward pass had at this
// branch.
//
// The `pass` of DropBPHandler::measure_sensitivities_branchwise has
//   Gradient forward()
//       clears all gradients, then runs the forward pass, the loss, and the backward pass down to
//       the output of the highest branch
//   Gradient backward(std::size_t branch, const Gradient& grad)
//       runs the backward pass of one branch and returns a new gradient
//   void backward_below(const Gradient& grad)
//       runs the backward pass of everything below branch 0
//   void clear_gradients(std::size_t branches)
//       makes the gradients of all branches below this index, and of everything below them, absent
#pragma once

#include <concepts>
#include <cstddef>
#include <type_traits>
#include <utility>
#include <vector>

#include "dropbp/dropbp_fwd.hpp"
#include "dropbp/sensitivity/measurement.hpp"

DROPBP_NAMESPACE_BEGIN
namespace detail {

template <class L>
concept repeats_backward =
    requires { requires std::remove_reference_t<L>::backward_is_repeatable; };

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

template <class Pass>
constexpr bool require_pass() {
  static_assert(has_pass_forward<Pass>,
                "dropbp: the pass of measure_sensitivities_branchwise needs Gradient forward(), "
                "which returns the gradient of the highest branch's output as a movable type.");
  if constexpr (has_pass_forward<Pass>) {
    using Gradient = pass_gradient<Pass>;
    static_assert(has_pass_backward<Pass, Gradient>,
                  "dropbp: the pass of measure_sensitivities_branchwise needs Gradient "
                  "backward(std::size_t branch, const Gradient& grad), which returns the "
                  "gradient of the branch's input, of the type that forward() returns.");
    static_assert(
        has_backward_below<Pass, Gradient>,
        "dropbp: the pass of measure_sensitivities_branchwise needs void backward_below(const "
        "Gradient& grad), for what lies below branch 0; where nothing does, an empty one.");
  }
  static_assert(
      has_clear_gradients<Pass>,
      "dropbp: the pass of measure_sensitivities_branchwise needs void clear_gradients(std::size_t "
      "branches), for the branches below this number and all that lies below them.");
  return true;
}

// See DropBPHandler::measure_sensitivities_branchwise.
template <class ModelType, class Allocation, class Sampling, class Pass, class SensitivityPolicy>
std::vector<double> measure_branchwise(DropBPHandler<ModelType, Allocation, Sampling>& handler,
                                       Pass& pass, const SensitivityPolicy& policy) {
  static_assert(require_measurable<ModelType, SensitivityPolicy>() && require_pass<Pass>());
  using Gradient = std::remove_cvref_t<decltype(pass.forward())>;
  require_one_after_another(handler.schedule(), "measure_sensitivities_branchwise runs",
                            "call measure_sensitivities");
  const std::size_t size = handler.size();
  std::vector<double> sensitivities(size);
  std::vector<Gradient> gradients;  // of each branch's output, highest branch first
  gradients.reserve(size + 1);
  Measurement measurement(handler);
  ModelType& model = measurement.model();
  measurement.for_each([](auto& layer, std::size_t) {
    static_assert(repeats_backward<decltype(layer)>,
                  "dropbp: measure_sensitivities_branchwise runs each backward several times; an "
                  "operation whose backward leaves Saved as it was says so with static constexpr "
                  "bool backward_is_repeatable = true.");
  });
  measurement.drop_only(size, true);
  gradients.push_back(pass.forward());
  for (std::size_t i = size; i-- > 0;) gradients.push_back(pass.backward(i, gradients.back()));
  static_cast<void>(pass.backward_below(gradients.back()));
  gradients.pop_back();
  measurement.require_passes();
  // A policy's reference may be immovable.
  const typename SensitivityPolicy::Reference reference = policy.reference(model);
  require_finite_reference(model, policy, reference);
  // From the lowest branch upwards, so that everything above the dropped branch keeps the gradients
  // of the complete pass.
  for (std::size_t i = 0; i < size; ++i) {
    static_cast<void>(pass.clear_gradients(i + 1));
    Gradient gradient = std::move(gradients.back());
    gradients.pop_back();
    for (std::size_t below = i; below-- > 0;) gradient = pass.backward(below, gradient);
    static_cast<void>(pass.backward_below(gradient));
    sensitivities[i] = finite_difference(model, policy, reference, i);
  }
  measurement.end();
  return sensitivities;
}

}  // namespace detail
DROPBP_NAMESPACE_END
