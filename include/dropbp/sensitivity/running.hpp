// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Updates a RunningSensitivity (policy/running_sensitivity.hpp) from the backward passes of a
// training step.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

#include "dropbp/base/error.hpp"
#include "dropbp/branches.hpp"
#include "dropbp/policy/running_sensitivity.hpp"

DROPBP_NAMESPACE_BEGIN
namespace detail {

template <class L>
concept has_squared_gradient_norm = requires(L& layer) {
  { layer.squared_gradient_norm() } -> std::convertible_to<double>;
};

template <class L>
concept has_stream_ratio = requires(L& layer) {
  { layer.stream_ratio() } -> std::convertible_to<double>;
};

// Returns the squared norm of a layer's own gradients.
struct OwnGradientNorm {
  template <class Layer>
  double operator()(Layer& layer, std::size_t) const {
    static_assert(has_squared_gradient_norm<Layer>,
                  "dropbp: observe_gradients needs layers with double squared_gradient_norm(), "
                  "which DropBPLayer has. For others pass the branches' squared norms: "
                  "observe_gradients(running, squared_norms).");
    return static_cast<double>(layer.squared_gradient_norm());
  }
};

// The stream ratio that the branch would have without GradientScaling, from the one measured with
// factor `scale`. With scaling, the branch adds `scale` times as much to the residual stream's
// gradient, so 1 / ratio - 1 is `scale` times larger, to first order.
inline double unscaled_stream_ratio(double ratio, double scale) {
  if (scale != 1.0 && ratio > 0.0) ratio = 1.0 / (1.0 + (1.0 / ratio - 1.0) / scale);
  return is_finite(ratio) && ratio > 0.0 ? ratio : 1.0;
}

// See DropBPHandler::observe_gradients. `kept_micro_steps` and `scales` are those of the step, one
// per branch; squared_norm_of(layer, i) is the squared norm of the branch's own gradients.
template <class ModelType, class Schedule, class Norm>
void observe_step(const Branches<ModelType>& branches, const Schedule& schedule,
                  std::span<const std::uint32_t> kept_micro_steps, std::span<const double> scales,
                  RunningSensitivity& running, const Norm& squared_norm_of) {
  bool trainable = schedule.options().trainable_below;
  branches.for_each([&](auto& layer, std::size_t i) {
    // A branch with nothing trainable at or below it has sensitivity 0. Every plan drops it, so its
    // sensitivity would stay unknown otherwise.
    trainable = trainable || schedule.trainable(i);
    if (!trainable) return running.observe(i, 0.0);
    // The gradients are scaled sums over the micro-steps that kept the branch. Division by their
    // number and the scale gives the mean without GradientScaling.
    const double scale = static_cast<double>(kept_micro_steps[i]) * scales[i];
    if (!(scale > 0.0)) return;
    double ratio = 1.0;
    if constexpr (has_stream_ratio<decltype(layer)>)
      ratio = static_cast<double>(layer.stream_ratio());
    running.observe(i, squared_norm_of(layer, i) / (scale * scale),
                    unscaled_stream_ratio(ratio, scales[i]));
  });
  running.end_step();
}

}  // namespace detail
DROPBP_NAMESPACE_END
