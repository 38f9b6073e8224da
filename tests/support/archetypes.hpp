// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The weakest legal type of every concept: signatures without bodies, and no optional member. If
// the library uses a user's type beyond its concept, these types do not compile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "dropbp/dropbp.hpp"

namespace archetypes {

/// No default construction, no copy, no assignment, and the usual operators are deleted.
struct Weak {
  Weak() = delete;
  Weak(const Weak&) = delete;
  Weak& operator=(const Weak&) = delete;
  void operator&() const = delete;
};
/// Has a move constructor, but no move assignment.
struct WeakMovable : Weak {
  WeakMovable() = delete;
  WeakMovable(const WeakMovable&) = delete;
  WeakMovable(WeakMovable&&) noexcept;
  WeakMovable& operator=(const WeakMovable&) = delete;
};
struct WeakCopyable : Weak {
  WeakCopyable() = delete;
  WeakCopyable(const WeakCopyable&);
  WeakCopyable& operator=(const WeakCopyable&);
};

// Deleted functions that argument-dependent lookup finds if the library makes an unqualified call.
template <class A, class B>
void operator,(A&&, B&&) = delete;
template <class A, class B>
void accumulate(A&&, B&&) = delete;
template <class A, class B>
void scale(A&&, B&&) = delete;
template <class A>
void squared_norm(A&&) = delete;
template <class A>
void address_of(A&&) = delete;
template <class A>
void size_of(A&&) = delete;
template <class... A>
void for_each_gradient_of(A&&...) = delete;
template <class... A>
void visit_layers(A&&...) = delete;

/// An object of any type, for unevaluated expressions.
template <class T>
T&& made();

/// Stands for a number: convertible to `Arithmetic`, and nothing else.
template <class Arithmetic>
struct Number {
  operator Arithmetic() const;
};

// ---- tensors

struct Tensor : WeakMovable {
  struct dropbp_tensor_traits {
    static void accumulate(Tensor& y, const Tensor& x);
  };
};
static_assert(dropbp::Tensor<Tensor> && !dropbp::ScalableTensor<Tensor> &&
              !dropbp::NormedTensor<Tensor>);

struct ScalableTensor : WeakMovable {
  struct dropbp_tensor_traits {
    static void accumulate(ScalableTensor& y, const ScalableTensor& x);
    static void scale(ScalableTensor& y, double factor);
  };
};
static_assert(dropbp::Tensor<ScalableTensor> && dropbp::ScalableTensor<ScalableTensor>);

struct NormedTensor : Weak {
  struct dropbp_tensor_traits {
    static Number<float> squared_norm(const NormedTensor& x);
  };
};
static_assert(dropbp::NormedTensor<NormedTensor> && !dropbp::ComparableTensor<NormedTensor> &&
              !dropbp::Tensor<NormedTensor>);

struct ComparableTensor : Weak {
  struct dropbp_tensor_traits {
    static Number<double> squared_norm(const ComparableTensor& x);
    static Number<double> squared_distance(const ComparableTensor& x, const ComparableTensor& y);
    static ComparableTensor clone(const ComparableTensor& x);
  };
};
static_assert(dropbp::ComparableTensor<ComparableTensor> && !dropbp::Tensor<ComparableTensor>);

/// Contiguous memory, with a size type other than std::size_t.
template <class Size>
struct ContiguousTensor : WeakMovable {
  struct dropbp_tensor_traits {
    static float* data(ContiguousTensor& x);
    static const float* data(const ContiguousTensor& x);
    static Size size(const ContiguousTensor& x);
  };
};
static_assert(dropbp::Tensor<ContiguousTensor<int>> &&
              dropbp::ScalableTensor<ContiguousTensor<int>>);
static_assert(dropbp::ComparableTensor<ContiguousTensor<Number<std::size_t>>>);

/// Memory of a backend without kernels. The tensor has its own accumulate.
struct TensorWithoutKernels : WeakMovable {
  struct OwnCard;
  struct dropbp_tensor_traits {
    using backend = OwnCard;
    static float* data(const TensorWithoutKernels& x);
    static std::size_t size(const TensorWithoutKernels& x);
    static void accumulate(TensorWithoutKernels& y, const TensorWithoutKernels& x);
  };
};
static_assert(dropbp::Tensor<TensorWithoutKernels> &&
              !dropbp::ScalableTensor<TensorWithoutKernels>);

// ---- operations

struct Saved {
  Saved();
  Saved(const Saved&) = delete;
  Saved(Saved&&) noexcept;
  Saved& operator=(const Saved&) = delete;
  Saved& operator=(Saved&&) noexcept;
  void operator&() const = delete;
};

/// Converts to T on use, as the expressions of lazy libraries do.
template <class T>
struct Expression : WeakMovable {
  operator T() const;
};

template <class T, class... Args>
struct Operation : WeakMovable {
  using Saved = archetypes::Saved;
  Expression<T> forward(const T& x, Saved* saved, Args... args);
  Expression<T> backward(const T& grad_output, Saved& saved, Args... args);
};
static_assert(dropbp::Operation<Operation<Tensor>, Tensor>);

/// Has every optional member, each in its most unusual legal form.
template <class T, class... Args>
struct FullOperation : WeakMovable {
  using Saved = archetypes::Saved;
  Expression<T> forward(const T& x, Saved* saved, Args... args);
  Expression<T> backward(const T& grad_output, Saved& saved, Args... args);
  T& forward_residual(T& x, Saved* saved, Args... args);
  T& backward_residual(T& grad, Saved& saved, Args... args);
  [[nodiscard]] Expression<T> backward_parameters(const T& grad_output, Saved& saved, Args... args);
  Number<float> cost() const;
  Number<bool> trainable() const;
  template <class Visit>
  void for_each_gradient(Visit visit) {
    visit(static_cast<NormedTensor*>(nullptr));
  }
  static constexpr bool backward_is_repeatable = true;
};
static_assert(dropbp::Operation<FullOperation<Tensor>, Tensor>);

/// An optional member that a constraint disables counts as absent.
struct OperationWithDisabledMembers : Operation<Tensor> {
  template <class T>
  void forward_residual(T& x, Saved* saved)
    requires(sizeof(T) == 0);
  template <class T>
  void backward_residual(T& grad, Saved& saved)
    requires(sizeof(T) == 0);
  template <class T>
  void backward_parameters(const T& grad_output, Saved& saved)
    requires(sizeof(T) == 0);
};

// ---- layers and models

struct DroppableLayer : Weak {
  void decide(const dropbp::BranchDecision& decision);
  Number<float> cost() const;
  Number<dropbp::BranchCalls> calls() const;
  void set_calls(dropbp::BranchCalls&& calls);
};
static_assert(dropbp::DroppableLayer<DroppableLayer>);

/// A layer with everything that timing, norms and repeated backward passes need, all as templates.
struct FullLayer : Weak {
  template <class Decision>
  void decide(Decision decision);
  double cost() const;
  dropbp::BranchCalls calls() const;
  template <class Calls>
  void set_calls(Calls calls);
  template <class Clock>
  void set_clock(Clock clock);
  Number<dropbp::BranchTimes> times() const;
  Number<float> squared_gradient_norm();
  Number<bool> trainable() const;
  static constexpr bool backward_is_repeatable = true;
};
static_assert(dropbp::DroppableLayer<FullLayer>);

template <class... Layers>
struct Model : Weak {
  template <class Visit>
  void for_each_layer(Visit visit) {
    (static_cast<void>(visit(made<Layers&>())), ...);
  }
};
static_assert(dropbp::Model<Model<DroppableLayer>> &&
              !dropbp::GradientModel<Model<DroppableLayer>>);

template <class Gradient, class... Layers>
struct GradientModel : Model<Layers...> {
  template <class Visit>
  void for_each_gradient(Visit visit) {
    visit(made<Gradient&>());
    visit(made<const Gradient&>());
    visit(static_cast<const Gradient*>(nullptr));
  }
};
static_assert(dropbp::GradientModel<GradientModel<NormedTensor, DroppableLayer>>);

// ---- policies

struct Sampling : WeakCopyable {
  struct Prepared {
    void operator&() const = delete;
  };
  Prepared prepare(const dropbp::SamplingInput& input) const;
  void draw(const Prepared& prepared, const dropbp::CounterRandom& random,
            std::span<std::uint8_t> dropped) const;
};
static_assert(dropbp::Sampling<Sampling>);

struct FullSampling : WeakCopyable {
  using Prepared = Sampling::Prepared;
  Prepared prepare(const dropbp::SamplingInput& input) const;
  void draw(const Prepared& prepared, const dropbp::CounterRandom& random,
            std::span<std::uint8_t> dropped, std::span<std::uint32_t> work) const;
  std::size_t max_kept(const Prepared& prepared, std::uint32_t group) const;
  double max_kept_weight(const Prepared& prepared) const;
  void limit(std::span<double> rates, const dropbp::SamplingInput& input) const;
};
static_assert(dropbp::Sampling<FullSampling>);

struct Allocation : WeakCopyable {
  std::vector<double> allocate(const dropbp::AllocationInput& input) const;
};
static_assert(dropbp::Allocation<Allocation>);

struct AllocationObjective : WeakCopyable {
  double rate_at(double slope) const;
};
static_assert(dropbp::AllocationObjective<AllocationObjective>);

struct Sensitivity : Weak {
  struct Reference : Weak {};
  template <class Model>
  Reference reference(Model& model) const;
  template <class Model>
  double difference(const Reference& reference, Model& model) const;
};
static_assert(dropbp::Sensitivity<Sensitivity>);

// ---- callables

/// Neither const nor discardable: operator() is not const, and its result is [[nodiscard]].
struct Backprop : Weak {
  [[nodiscard]] Number<float> operator()();
};

struct Clock : Weak {
  Number<float> operator()() const;
};

struct Pass : Weak {
  struct Gradient : WeakMovable {
    Gradient(Gradient&&) noexcept;
    Gradient& operator=(Gradient&&) noexcept;
  };
  Gradient forward();
  Expression<Gradient> backward(std::size_t branch, const Gradient& grad);
  [[nodiscard]] int backward_below(const Gradient& grad);
  [[nodiscard]] int clear_gradients(std::size_t branches);
};

}  // namespace archetypes
