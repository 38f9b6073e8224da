// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// AdamW, with the formulas of torch.optim.AdamW (torch/optim/adamw.py, _single_tensor_adamw), after
// Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (ICLR 2019); and clipping as
// torch.nn.utils.clip_grad_norm_.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "dropbp/backend/cpu/kernels.hpp"
#include "dropbp/ops/parameter.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// The defaults are PyTorch's.
struct AdamWOptions {
  double learning_rate = 1e-3;  ///< step size
  double beta1 = 0.9;           ///< decay of the first moment
  double beta2 = 0.999;         ///< decay of the second
  double eps = 1e-8;            ///< added to the root of the second moment
  double weight_decay = 1e-2;   ///< decoupled: a share of the weight for each unit of learning rate
};

/// What the optimizer remembers of one parameter; part of a checkpoint.
template <class T, class Backend = Cpu>
struct AdamWState {
  Matrix<Statistic<T>, Backend> first_moment;   ///< empty before the first update
  Matrix<Statistic<T>, Backend> second_moment;  ///< the same
  Matrix<Statistic<T>, Backend>
      master;  ///< the values themselves, where T is too narrow to add small updates to; else empty
  std::uint64_t steps = 0;  ///< updates of this parameter, not of the training
};

/// One update of one parameter. Its gradient is multiplied by `gradient_factor` on the way
/// (clipping, averaging over micro-steps). A parameter that is frozen or whose gradient is absent
/// is skipped: its value, moments and step count stay as they are.
template <class T>
void adamw_update(Parameter<T>& parameter, AdamWState<T>& state, const AdamWOptions& options,
                  double gradient_factor = 1.0) {
  if (!parameter.trained || !parameter.has_gradient()) return;
  if (state.second_moment.size() != parameter.size()) {  // of both the last to get its memory
    state.first_moment = Matrix<T>(parameter.rows(), parameter.columns());
    state.second_moment = Matrix<T>(parameter.rows(), parameter.columns());
    std::fill_n(state.first_moment.data(), parameter.size(), T(0));
    std::fill_n(state.second_moment.data(), parameter.size(), T(0));
  }
  ++state.steps;
  const double t = static_cast<double>(state.steps);
  const T step_size = static_cast<T>(options.learning_rate / (1.0 - std::pow(options.beta1, t)));
  const T root_correction = static_cast<T>(1.0 / std::sqrt(1.0 - std::pow(options.beta2, t)));
  const T keep = static_cast<T>(1.0 - options.learning_rate * options.weight_decay);
  const T beta1 = static_cast<T>(options.beta1), rest1 = static_cast<T>(1.0 - options.beta1);
  const T beta2 = static_cast<T>(options.beta2), rest2 = static_cast<T>(1.0 - options.beta2);
  const T eps = static_cast<T>(options.eps), factor = static_cast<T>(gradient_factor);

  T* const p = parameter.value().data;
  const T* const g = parameter.gradient().data;
  T* const m = state.first_moment.data();
  T* const v = state.second_moment.data();
  const Index size = static_cast<Index>(parameter.size());
  constexpr Index chunk = 4096;
  parallel_for((size + chunk - 1) / chunk, (std::min)(size, chunk), [&](Index c) {
    const Index last = (std::min)(size, (c + 1) * chunk);
    for (Index i = c * chunk; i < last; ++i) {
      const T gradient = factor * g[i];
      m[i] = beta1 * m[i] + rest1 * gradient;
      v[i] = beta2 * v[i] + rest2 * (gradient * gradient);
      p[i] = keep * p[i] - step_size * m[i] / (std::sqrt(v[i]) * root_correction + eps);
    }
  });
}

/// The same of many: where launching work costs something, all at once.
template <class T>
void adamw_updates(std::span<Parameter<T>* const> parameters, std::span<AdamWState<T>> states,
                   const AdamWOptions& options, double gradient_factor) {
  for (std::size_t i = 0; i < parameters.size(); ++i)
    adamw_update(*parameters[i], states[i], options, gradient_factor);
}

/// The optimizer of a list of parameters, with one state each.
template <class T, class Backend = Cpu>
class AdamW {
 public:
  /// Throws std::invalid_argument for options outside their ranges (those of PyTorch).
  explicit AdamW(std::vector<Parameter<T, Backend>*> parameters, AdamWOptions options = {})
      : parameters_(std::move(parameters)), states_(parameters_.size()) {
    set_options(options);
  }

  const AdamWOptions& options() const noexcept { return options_; }  ///< of all parameters
  /// From the next step on. Throws as the constructor does, with the options as they were.
  void set_options(const AdamWOptions& options) {
    const bool valid = options.learning_rate >= 0 && options.eps >= 0 &&
                       options.weight_decay >= 0 && options.beta1 >= 0 && options.beta1 < 1 &&
                       options.beta2 >= 0 && options.beta2 < 1;
    // Comparisons alone let NaN pass under -ffast-math.
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

  /// Updates every parameter that has a gradient; `learning_rate_scale` multiplies the rate of all
  /// (schedules).
  void step(double gradient_factor = 1.0, double learning_rate_scale = 1.0) {
    AdamWOptions options = options_;
    options.learning_rate *= learning_rate_scale;
    adamw_updates(parameters(), std::span<AdamWState<T, Backend>>(states_), options,
                  gradient_factor);
  }

  /// In the order given.
  std::span<Parameter<T, Backend>* const> parameters() const noexcept { return parameters_; }
  AdamWState<T, Backend>& state(std::size_t i) { return states_.at(i); }  ///< of the i-th parameter

 private:
  std::vector<Parameter<T, Backend>*> parameters_;
  std::vector<AdamWState<T, Backend>> states_;
  AdamWOptions options_;
};

/// The squared Euclidean norm of each parameter's gradient, in double; 0 where it is absent.
template <class T>
std::vector<double> squared_gradient_norms(std::span<Parameter<T>* const> parameters) {
  constexpr Index chunk = 8192, chunks_at_once = 256;
  std::vector<double> norms(parameters.size());
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const Parameter<T>& parameter = *parameters[i];
    if (!parameter.trained || !parameter.has_gradient()) continue;
    const T* const g = parameter.gradient().data;
    const Index size = static_cast<Index>(parameter.size());
    for (Index start = 0; start < size; start += chunk * chunks_at_once) {
      double shares[chunks_at_once];
      const Index chunks = (std::min)(chunks_at_once, (size - start + chunk - 1) / chunk);
      parallel_for(chunks, (std::min)(size, chunk), [&](Index c) {
        const Index first = start + c * chunk;
        shares[c] = backend_kernels<Cpu, T>::squared_norm(
            g + first, static_cast<std::size_t>((std::min)(chunk, size - first)));
      });
      for (Index c = 0; c < chunks; ++c) norms[i] += shares[c];
    }
  }
  return norms;
}

/// The norm of all of them together.
inline double global_norm(std::span<const double> squared_norms) {
  double total = 0.0;
  for (const double norm : squared_norms) total += norm;
  return std::sqrt(total);
}

/// The Euclidean norm of all gradients that are present, in double.
template <class T>
double global_gradient_norm(std::span<Parameter<T>* const> parameters) {
  return global_norm(squared_gradient_norms<T>(parameters));
}

/// The factor that brings a gradient of this norm down to `max_norm`, as
/// torch.nn.utils.clip_grad_norm_.
inline double clip_factor(double norm, double max_norm) noexcept {
  return (std::min)(1.0, max_norm / (norm + 1e-6));
}

}  // namespace ops
DROPBP_NAMESPACE_END
