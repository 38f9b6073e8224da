// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// AdamW with the formulas of torch.optim.AdamW (torch/optim/adamw.py, _single_tensor_adamw), after
// Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (ICLR 2019), and gradient clipping
// with the formula of torch.nn.utils.clip_grad_norm_.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "dropbp/kernels/cpu/adamw.hpp"
#include "dropbp/kernels/cpu/elementwise.hpp"
#include "dropbp/kernels/cpu/squared_norms.hpp"
#include "dropbp/ops/parameter.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// Hyperparameters; the defaults are PyTorch's.
struct AdamWOptions {
  double learning_rate = 1e-3;  ///< step size
  double beta1 = 0.9;           ///< decay of the first moment
  double beta2 = 0.999;         ///< decay of the second moment
  double eps = 1e-8;            ///< added to the root of the second moment
  double weight_decay = 1e-2;   ///< decoupled, per unit of learning rate; see Parameter::decays
};

/// The optimizer's state of one parameter; part of a checkpoint.
template <class T, class Backend = Cpu>
struct AdamWState {
  Matrix<Statistic<T>, Backend> first_moment;   ///< empty before the first update
  Matrix<Statistic<T>, Backend> second_moment;  ///< empty before the first update
  Matrix<Statistic<T>, Backend>
      master;  ///< the values as Statistic<T>, if T is too narrow for small updates; else empty
  std::uint64_t steps = 0;  ///< number of updates of this parameter, not of the training
};

namespace detail {

/// The factor by which weight decay multiplies a value in one update.
inline double kept_by_decay(bool decays, const AdamWOptions& options) noexcept {
  return decays ? 1.0 - options.learning_rate * options.weight_decay : 1.0;
}

/// Allocates and initialises the state of a parameter that has none yet.
template <class T, class Backend>
void begin_state(const Parameter<T, Backend>& parameter, AdamWState<T, Backend>& state) {
  using Values = Matrix<Statistic<T>, Backend>;
  if (state.second_moment.size() != parameter.size()) {  // the second is allocated last
    for (Values* moment : {&state.first_moment, &state.second_moment}) {
      *moment = Values(parameter.rows(), parameter.columns());
      device_runtime<Backend>::fill(moment->data(), 0, parameter.size() * sizeof(Statistic<T>));
    }
  }
  if constexpr (!std::is_same_v<T, Statistic<T>>) {
    if (state.master.size() == parameter.size()) return;
    state.master = Values(parameter.rows(), parameter.columns());
    kernels<op::elementwise, T, Backend>::convert_to(state.master.view(), parameter.value());
  }
}

/// Describes the next update of a parameter and increments its step count.
template <class T, class Backend>
AdamWSegment<T> next_segment(Parameter<T, Backend>& parameter, AdamWState<T, Backend>& state,
                             const AdamWOptions& options) {
  using S = Statistic<T>;
  const auto t = static_cast<double>(++state.steps);
  return {.value = parameter.value().data,
          .gradient = parameter.gradient().data,
          .master = state.master.data(),
          .first_moment = state.first_moment.data(),
          .second_moment = state.second_moment.data(),
          .size = static_cast<std::int64_t>(parameter.size()),
          .step_size = static_cast<S>(options.learning_rate / (1.0 - std::pow(options.beta1, t))),
          .root_correction = static_cast<S>(1.0 / std::sqrt(1.0 - std::pow(options.beta2, t))),
          .keep = static_cast<S>(kept_by_decay(parameter.decays, options)),
          .first_chunk = 0};
}

template <class S>
AdamWConstants<S> adamw_constants(const AdamWOptions& options, double gradient_factor) {
  return {.beta1 = static_cast<S>(options.beta1),
          .rest1 = static_cast<S>(1.0 - options.beta1),
          .beta2 = static_cast<S>(options.beta2),
          .rest2 = static_cast<S>(1.0 - options.beta2),
          .eps = static_cast<S>(options.eps),
          .factor = static_cast<S>(gradient_factor)};
}

}  // namespace detail

/// Updates each parameter once. Gradients are multiplied by `gradient_factor` (clipping, averaging
/// over micro-steps). Frozen parameters and parameters without a gradient are skipped: their
/// values, moments and step counts do not change. Throws std::logic_error while the current CUDA
/// stream is captured into a graph.
template <class T, class Backend = Cpu>
void adamw_updates(std::span<Parameter<T, Backend>* const> parameters,
                   std::span<AdamWState<T, Backend>> states, const AdamWOptions& options,
                   double gradient_factor) {
  // Before the step counts change and memory is allocated.
  device_runtime<Backend>::require_no_capture("an AdamW step");
  const auto updated = [&](std::size_t i) {
    return parameters[i]->trained && parameters[i]->has_gradient();
  };
  std::vector<AdamWSegment<T>> segments;
  segments.reserve(parameters.size());
  for (std::size_t i = 0; i < parameters.size(); ++i)
    if (updated(i)) detail::begin_state(*parameters[i], states[i]);
  for (std::size_t i = 0; i < parameters.size(); ++i)
    if (updated(i)) segments.push_back(detail::next_segment(*parameters[i], states[i], options));
  if (segments.empty()) return;
  kernels<op::adamw, T, Backend>::run(
      segments, detail::adamw_constants<Statistic<T>>(options, gradient_factor));
}

/// Updates one parameter; see adamw_updates.
template <class T, class Backend = Cpu>
void adamw_update(Parameter<T, Backend>& parameter, AdamWState<T, Backend>& state,
                  const AdamWOptions& options, double gradient_factor = 1.0) {
  Parameter<T, Backend>* const one = &parameter;
  adamw_updates<T, Backend>({&one, 1}, {&state, 1}, options, gradient_factor);
}

/// The optimizer of a list of parameters, with one state per parameter.
template <class T, class Backend = Cpu>
class AdamW {
 public:
  /// Throws std::invalid_argument for options outside their ranges (PyTorch's ranges).
  explicit AdamW(std::vector<Parameter<T, Backend>*> parameters, AdamWOptions options = {})
      : parameters_(std::move(parameters)), states_(parameters_.size()) {
    set_options(options);
  }

  const AdamWOptions& options() const noexcept { return options_; }  ///< for all parameters
  /// Takes effect at the next step. Throws as the constructor does, and then keeps the old options.
  void set_options(const AdamWOptions& options) {
    const bool valid = options.learning_rate >= 0 && options.eps >= 0 &&
                       options.weight_decay >= 0 && options.beta1 >= 0 && options.beta1 < 1 &&
                       options.beta2 >= 0 && options.beta2 < 1;
    // With -ffast-math the comparisons above accept NaN.
    bool finite = true;
    for (const double value :
         {options.learning_rate, options.eps, options.weight_decay, options.beta1, options.beta2})
      finite = finite && dropbp::detail::is_finite(value);
    if (!finite || !valid)
      detail::throw_invalid(
          "AdamW needs learning_rate, eps and weight_decay of at least 0 and betas in [0, 1)",
          "learning_rate " + dropbp::detail::text(options.learning_rate) + ", eps " +
              dropbp::detail::text(options.eps) + ", weight_decay " +
              dropbp::detail::text(options.weight_decay) + ", betas " +
              dropbp::detail::text(options.beta1) + " and " + dropbp::detail::text(options.beta2) +
              " were given",
          "start from the defaults of AdamWOptions");
    options_ = options;
  }

  /// Updates every parameter that has a gradient. `learning_rate_scale` multiplies the learning
  /// rate of all parameters (for schedules).
  void step(double gradient_factor = 1.0, double learning_rate_scale = 1.0) {
    AdamWOptions options = options_;
    options.learning_rate *= learning_rate_scale;
    adamw_updates(parameters(), std::span<AdamWState<T, Backend>>(states_), options,
                  gradient_factor);
  }

  /// In the order that the constructor was given.
  std::span<Parameter<T, Backend>* const> parameters() const noexcept { return parameters_; }
  AdamWState<T, Backend>& state(std::size_t i) { return states_.at(i); }  ///< of the i-th parameter

 private:
  std::vector<Parameter<T, Backend>*> parameters_;
  std::vector<AdamWState<T, Backend>> states_;
  AdamWOptions options_;
};

namespace detail {
template <class T, class Backend>
std::vector<Elements<const T, Backend>> gradients_of(
    std::span<Parameter<T, Backend>* const> parameters) {
  std::vector<Elements<const T, Backend>> gradients;
  for (const Parameter<T, Backend>* parameter : parameters)
    gradients.push_back(parameter->trained ? parameter->gradient_elements()
                                           : Elements<const T, Backend>{});
  return gradients;
}
}  // namespace detail

/// The squared Euclidean norm of each parameter's gradient, computed in double; 0 if the gradient
/// is absent. Waits for the current CUDA stream.
template <class T, class Backend = Cpu>
std::vector<double> squared_gradient_norms(std::span<Parameter<T, Backend>* const> parameters) {
  return kernels<op::squared_norms, T, Backend>::run(detail::gradients_of<T, Backend>(parameters));
}

/// The same; on a device they stay there until one is read.
template <class T, class Backend = Cpu>
std::vector<DeferredNumber> deferred_squared_gradient_norms(
    std::span<Parameter<T, Backend>* const> parameters) {
  const auto gradients = detail::gradients_of<T, Backend>(parameters);
  if constexpr (DeviceBackend<Backend>) {
    return kernels<op::squared_norms, T, Backend>::deferred(gradients);
  } else {
    const std::vector<double> norms = kernels<op::squared_norms, T, Backend>::run(gradients);
    return {norms.begin(), norms.end()};
  }
}

/// The norm of all gradients together, from their squared norms.
inline double global_norm(std::span<const double> squared_norms) {
  double total = 0.0;
  for (const double norm : squared_norms) total += norm;
  return std::sqrt(total);
}

/// The Euclidean norm of all present gradients together, computed in double.
template <class T, class Backend = Cpu>
double global_gradient_norm(
    std::type_identity_t<std::span<Parameter<T, Backend>* const>> parameters) {
  return global_norm(squared_gradient_norms<T, Backend>(parameters));
}

/// The factor that reduces a gradient with norm `norm` to norm `max_norm`; 1 for smaller gradients.
/// Formula of torch.nn.utils.clip_grad_norm_.
inline double clip_factor(double norm, double max_norm) noexcept {
  return (std::min)(1.0, max_norm / (norm + 1e-6));
}

}  // namespace ops
DROPBP_NAMESPACE_END
