// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Instantiates every public template of the core with the weakest types that it promises to accept.
// The test is that this compiles: no function here has a body, and nothing is linked.
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "dropbp/adaptive.hpp"
#include "dropbp/dropbp.hpp"
#include "dropbp/steady_clock.hpp"
#include "support/archetypes.hpp"

using namespace archetypes;

// ---- all members of the classes: `extern template` in a user's header instantiates them

template class dropbp::DropBPLayer<archetypes::Operation<archetypes::Tensor>>;
template class dropbp::DropBPLayer<FullOperation<archetypes::Tensor>>;
template class dropbp::DropSchedule<>;
template class dropbp::DropSchedule<archetypes::Sampling>;
template class dropbp::DropSchedule<FullSampling>;
template class dropbp::DropSchedule<dropbp::AtLeastTargetSampling>;
template class dropbp::DropSchedule<dropbp::FixedBudgetSampling>;
template class dropbp::DropSchedule<dropbp::PerStageBudgetSampling>;
template struct dropbp::OptimalAllocation<>;
template struct dropbp::OptimalAllocation<dropbp::ScaledVariance>;
template struct dropbp::OptimalAllocation<archetypes::AllocationObjective>;
template class dropbp::DropBPHandler<archetypes::Model<archetypes::DroppableLayer>>;
template class dropbp::DropBPHandler<archetypes::Model<archetypes::DroppableLayer, FullLayer>,
                                     archetypes::Allocation, archetypes::Sampling>;
template class dropbp::DropBPHandler<archetypes::GradientModel<archetypes::NormedTensor, FullLayer>,
                                     dropbp::OptimalAllocation<archetypes::AllocationObjective>,
                                     FullSampling>;
template class dropbp::AdaptiveHandler<archetypes::Model<archetypes::DroppableLayer>>;
template class dropbp::AdaptiveHandler<archetypes::Model<archetypes::DroppableLayer, FullLayer>,
                                       archetypes::Allocation, archetypes::Sampling>;

// ---- tensors

void use(archetypes::Tensor& y, const archetypes::Tensor& x) { dropbp::accumulate(y, x); }
void use(archetypes::ScalableTensor& y) { dropbp::scale(y, 0.5); }
double use(const archetypes::NormedTensor& x) { return dropbp::squared_norm(x); }
template <class T>
double use_memory(T& y, const T& x) {
  dropbp::accumulate(y, x);
  dropbp::scale(y, 0.5);
  return dropbp::squared_norm(x);
}
template double use_memory(ContiguousTensor<int>& y, const ContiguousTensor<int>& x);
template double use_memory(ContiguousTensor<Number<std::size_t>>& y,
                           const ContiguousTensor<Number<std::size_t>>& x);

// ---- layers: every way to call one

template <class Layer, class T, class... Args>
void use_layer(Layer& layer, const T& x, T& stream, T& gradient, Args&&... args) {
  [[maybe_unused]] const T y = layer.forward(x, std::forward<Args>(args)...);
  [[maybe_unused]] const T in_place = layer.forward(std::move(stream), std::forward<Args>(args)...);
  [[maybe_unused]] const T input_gradient =
      layer.backward(std::move(gradient), std::forward<Args>(args)...);
  [[maybe_unused]] const Expression<T> f = layer.forward_branch(x, std::forward<Args>(args)...);
  [[maybe_unused]] const std::optional<Expression<T>> named =
      layer.backward_branch(x, std::forward<Args>(args)...);
  [[maybe_unused]] const std::optional<Expression<T>> moved =
      layer.backward_branch(std::move(gradient), std::forward<Args>(args)...);
}
template <class T>
void use_layers_of(const T& x, T& stream, T& gradient, WeakMovable& token) {
  dropbp::DropBPLayer layer{made<archetypes::Operation<T>>()};
  use_layer(layer, x, stream, gradient);
  dropbp::DropBPLayer full{made<FullOperation<T>>(), 2.0};
  use_layer(full, x, stream, gradient);
  static_cast<void>(full.squared_gradient_norm());
  dropbp::DropBPLayer with_arguments{
      made<archetypes::Operation<T, WeakMovable, const WeakMovable&>>()};
  use_layer(with_arguments, x, stream, gradient, std::move(token), token);
  dropbp::DropBPLayer full_with_arguments{
      made<FullOperation<T, WeakMovable, const WeakMovable&>>()};
  use_layer(full_with_arguments, x, stream, gradient, std::move(token), token);
}
template void use_layers_of(const archetypes::Tensor&, archetypes::Tensor&, archetypes::Tensor&,
                            WeakMovable&);
template void use_layers_of(const archetypes::ScalableTensor&, archetypes::ScalableTensor&,
                            archetypes::ScalableTensor&, WeakMovable&);
template void use_layers_of(const ContiguousTensor<int>&, ContiguousTensor<int>&,
                            ContiguousTensor<int>&, WeakMovable&);
template void use_layers_of(const TensorWithoutKernels&, TensorWithoutKernels&,
                            TensorWithoutKernels&, WeakMovable&);
void use(dropbp::DropBPLayer<OperationWithDisabledMembers>& layer, const archetypes::Tensor& x,
         archetypes::Tensor& stream, archetypes::Tensor& gradient) {
  use_layer(layer, x, stream, gradient);
}

// ---- schedules

template <class SamplingPolicy>
void use_schedule(const SamplingPolicy& sampling, const archetypes::Allocation& allocation,
                  const dropbp::OptimalAllocation<archetypes::AllocationObjective>& optimal) {
  dropbp::DropSchedule schedule{{1.0}, {}, sampling};
  auto copy = schedule;
  copy = schedule;
  copy.allocate(std::vector<double>{1.0}, allocation);
  copy.allocate(std::vector<double>{1.0}, optimal);
  if constexpr (dropbp::detail::has_max_kept_weight<SamplingPolicy>)
    static_cast<void>(copy.max_kept_weight());
}
template void use_schedule(const archetypes::Sampling&, const archetypes::Allocation&,
                           const dropbp::OptimalAllocation<archetypes::AllocationObjective>&);
template void use_schedule(const FullSampling&, const archetypes::Allocation&,
                           const dropbp::OptimalAllocation<archetypes::AllocationObjective>&);

// ---- sensitivities

template <class Policy, class ModelType>
double use_sensitivity(const Policy& policy, ModelType& model) {
  const typename Policy::Reference reference = policy.reference(model);
  return policy.difference(reference, model);
}
template double use_sensitivity(const dropbp::GradientNormSensitivity&,
                                archetypes::GradientModel<archetypes::NormedTensor>&);
template double use_sensitivity(const dropbp::GradientSensitivity&,
                                archetypes::GradientModel<archetypes::ComparableTensor>&);
template double use_sensitivity(const dropbp::GradientSensitivity&,
                                archetypes::GradientModel<ContiguousTensor<Number<std::size_t>>>&);

// ---- handlers: every constructor and all member templates

template <class Gradient, class... Layers>
using ModelOf = archetypes::GradientModel<Gradient, Layers...>;

double seconds();

template <class Handler>
void use_measurements(Handler& handler, archetypes::Backprop& backprop,
                      const archetypes::Sensitivity& policy) {
  static_cast<void>(handler.measure_sensitivities(backprop));
  static_cast<void>(handler.measure_sensitivities(backprop, policy));
  static_cast<void>(handler.allocate_by_sensitivity(backprop));
  static_cast<void>(handler.allocate_by_sensitivity(std::move(backprop), policy));
}
void use(ModelOf<archetypes::NormedTensor, archetypes::DroppableLayer>& model,
         const archetypes::Allocation& allocation, const archetypes::Sampling& sampling,
         archetypes::Backprop& backprop, const archetypes::Sensitivity& policy) {
  dropbp::DropBPHandler plain{model};
  use_measurements(plain, backprop, policy);
  dropbp::DropBPHandler handler{model, {}, allocation, sampling};
  use_measurements(handler, backprop, policy);
}
void use(ModelOf<archetypes::ComparableTensor, FullLayer>& model, archetypes::Backprop& backprop,
         archetypes::Pass& pass, const archetypes::Clock& clock,
         dropbp::RunningSensitivity& running, const archetypes::Sensitivity& policy) {
  dropbp::DropBPHandler handler{model};
  static_cast<void>(handler.measure_sensitivities(backprop, dropbp::GradientSensitivity{}));
  static_cast<void>(handler.measure_sensitivities_branchwise(pass));
  static_cast<void>(handler.measure_sensitivities_branchwise(pass, policy));
  static_cast<void>(handler.measure_costs(backprop, clock));
  static_cast<void>(handler.measure_costs(backprop, seconds));
  static_cast<void>(handler.measure_costs(backprop, dropbp::SteadyClock{}, 1));
  handler.observe_gradients(running);
}
void use(ModelOf<archetypes::NormedTensor, dropbp::DropBPLayer<FullOperation<archetypes::Tensor>>>&
             model,
         archetypes::Backprop& backprop, archetypes::Pass& pass, const archetypes::Clock& clock,
         dropbp::RunningSensitivity& running) {
  dropbp::DropBPHandler handler{model};
  static_cast<void>(handler.measure_sensitivities(backprop));
  static_cast<void>(handler.measure_sensitivities_branchwise(std::move(pass)));
  static_cast<void>(handler.measure_costs(backprop, clock));
  handler.observe_gradients(running);
}
