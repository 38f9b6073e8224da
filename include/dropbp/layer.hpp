// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A residual branch whose backward pass can be dropped.
#pragma once

#include <concepts>
#include <cstdint>
#include <optional>
#include <type_traits>
#include <utility>

#include "dropbp/base/moved_from.hpp"
#include "dropbp/model.hpp"
#include "dropbp/operation.hpp"
#include "dropbp/stream_norms.hpp"
#include "dropbp/tensor.hpp"

DROPBP_NAMESPACE_BEGIN

/// A residual branch around an Operation (see operation.hpp). It can be called in two ways:
///
/// - residual: `y = layer.forward(x, args...)`, `grad = layer.backward(grad, args...)`
/// - branch only: `f = layer.forward_branch(x, args...)`,
///   `optional grad = layer.backward_branch(grad, args...)`
///
/// The second form is for residual sums outside the layer (parallel residuals, projected
/// shortcuts). A DropBPHandler decides before each step; without a handler every branch is kept. A
/// dropped branch computes the same forward, saves nothing, and its backward returns the gradient
/// that it was given, in the same buffer. backward takes the same extra arguments as forward. Not
/// thread-safe; at most one backward may follow a forward. The passes of a moved-from layer throw
/// std::logic_error.
template <class Op>
class DropBPLayer {
  static_assert(detail::has_saved<Op>,
                "dropbp: an operation needs a default-constructible, movable member type `struct "
                "Saved` for what its forward keeps for its backward (an empty one will do).");
  static_assert(std::move_constructible<Op>,
                "dropbp: a layer owns its operation, which must be movable: keep what cannot move "
                "(a mutex, an atomic) behind a pointer.");
  static_assert(
      !detail::can_call<detail::Cost, Op> || detail::can_ask<double, detail::Cost, Op>,
      "dropbp: the operation's cost() must be const and return a number: double cost() const.");
  static_assert(
      !detail::can_call<detail::Flops, Op> || detail::can_call<detail::Cost, Op>,
      "dropbp: the operation's flops() is called cost() since version 0.2, because it may "
      "be any cost: rename it.");
  static_assert(!detail::can_call<detail::Trainable, Op> ||
                    detail::can_ask<bool, detail::Trainable, Op>,
                "dropbp: the operation's trainable() must be const and return a bool: bool "
                "trainable() const.");

 public:
  using Saved = typename Op::Saved;  ///< what the operation saves for its backward pass

  /// `cost`: the cost of one forward pass of the branch, in any unit common to the model (flops.hpp
  /// computes it for transformers). The default is op.cost() if the operation has it, otherwise 1.
  explicit DropBPLayer(Op op) : op_(std::move(op)) {
    if constexpr (detail::can_ask<double, detail::Cost, Op>)
      cost_ = static_cast<double>(op_.cost());
  }
  /// The same with a given cost.
  DropBPLayer(Op op, double cost) : op_(std::move(op)), cost_(cost) {}

  /// Returns x + op(x) in a new tensor of the shape of x; x is unchanged.
  template <class T, class... Args>
  T forward(const T& x, Args&&... args) {
    static_assert(require_residual_forward<T, Args...>());
    require_scale<T>();
    return run_forward([&](Saved* saved) {
      T y = op_.forward(x, saved, std::forward<Args>(args)...);
      dropbp::accumulate(y, x);
      return y;
    });
  }

  /// Returns x + op(x), in the buffer of x if the operation has forward_residual: a residual stream
  /// that is moved through the layers then needs one buffer.
  template <class T, class... Args>
    requires(!std::is_lvalue_reference_v<T> && !std::is_const_v<T>)
  T forward(T&& x, Args&&... args) {
    static_assert(require_residual_forward<T, Args...>() && require_forward_residual<T, Args...>());
    if constexpr (detail::has_member<Op, detail::ForwardResidual, T, Args...>) {
      require_scale<T>();
      run_forward(
          [&](Saved* saved) { op_.forward_residual(x, saved, std::forward<Args>(args)...); });
      return std::move(x);
    } else {
      return forward(std::as_const(x), std::forward<Args>(args)...);
    }
  }

  /// Returns the gradient of the layer's input, in the buffer of `grad_output`. Kept branch:
  /// grad_output + J^T grad_output. Dropped branch: grad_output. Kept, but the input's gradient is
  /// not needed (DropPlan::input_gradient_needed): grad_output unchanged; only the parameters'
  /// gradients are computed. Throws std::logic_error without a forward in the same micro-step.
  template <class T, class... Args>
  T backward(T grad_output, Args&&... args) {
    static_assert(require_residual_backward<T, Args...>());
    stream_.begin(grad_output, decision_);
    if (scales()) {
      run_backward(
          [&](Saved& saved) { backward_scaled(grad_output, saved, std::forward<Args>(args)...); });
    } else if constexpr (detail::has_member<Op, detail::BackwardResidual, T, Args...>) {
      run_backward([&](Saved& saved) {
        if (decision_.input_gradient_needed)
          op_.backward_residual(grad_output, saved, std::forward<Args>(args)...);
        else
          backward_parameters(grad_output, saved, std::forward<Args>(args)...);
      });
    } else {
      run_backward([&](Saved& saved) {
        if (decision_.input_gradient_needed) {
          const T grad_input =
              op_.backward(std::as_const(grad_output), saved, std::forward<Args>(args)...);
          dropbp::accumulate(grad_output, grad_input);
        } else {
          backward_parameters(grad_output, saved, std::forward<Args>(args)...);
        }
      });
    }
    stream_.end(grad_output, decision_);
    return grad_output;
  }

  /// Returns op(x), without the residual sum.
  template <class T, class... Args>
  auto forward_branch(const T& x, Args&&... args) {
    static_assert(require_forward<T, Args...>() && require_backward<T, detail::written<Args>...>());
    return run_forward(
        [&](Saved* saved) { return op_.forward(x, saved, std::forward<Args>(args)...); });
  }

  /// Returns J^T grad_output; empty if the branch is dropped or the gradient of its input is not
  /// needed. With GradientScaling the argument must be a modifiable temporary: std::move(gradient),
  /// or a copy.
  template <class G, class... Args>
  auto backward_branch(G&& grad, Args&&... args) {
    using T = std::remove_cvref_t<G>;
    static_assert(require_backward<T, Args...>());
    const T& grad_output = grad;
    using Gradient = std::remove_cvref_t<decltype(op_.backward(grad_output, *saved_,
                                                               std::forward<Args>(args)...))>;
    std::optional<Gradient> grad_input;
    run_backward([&](Saved& saved) {
      if (scales()) {
        if constexpr (ScalableTensor<T> && !std::is_lvalue_reference_v<G> && !std::is_const_v<G>)
          dropbp::scale(grad, decision_.gradient_scale);
        else
          detail::throw_order(
              "with GradientScaling backward_branch must be given a gradient that it may scale",
              "it was given a constant or named one, or a type without scale",
              "call backward_branch(std::move(gradient)), with a copy where the gradient is used "
              "again");
      }
      if (decision_.input_gradient_needed)
        grad_input.emplace(op_.backward(grad_output, saved, std::forward<Args>(args)...));
      else
        backward_parameters(grad_output, saved, std::forward<Args>(args)...);
    });
    return grad_input;
  }

  Op& op() noexcept { return op_; }              ///< the wrapped operation
  const Op& op() const noexcept { return op_; }  ///< the wrapped operation

  double cost() const noexcept { return cost_; }  ///< cost of one forward pass
  /// Takes effect at the next DropBPHandler::update_costs().
  void set_cost(double cost) noexcept { cost_ = cost; }

  /// Whether any parameter of the branch is trainable; requires op.trainable().
  template <class O = Op>
    requires detail::can_ask<bool, detail::Trainable, O>
  bool trainable() const {
    return static_cast<bool>(op_.trainable());
  }

  /// Whether the current plan drops the branch.
  bool dropped() const noexcept { return decision_.dropped; }

  /// Whether something is saved for a backward pass that has not run yet.
  bool holds_saved() const noexcept { return saved_.has_value(); }

  /// Whether the operation's backward may run several times on what one forward saved.
  static constexpr bool backward_is_repeatable = detail::says_backward_is_repeatable<Op>;

  /// Squared norm of the gradients of the branch's own parameters, in double. Absent gradients
  /// count as zero.
  template <class O = Op>
  double squared_gradient_norm() {
    static_assert(detail::has_for_each_gradient<O>,
                  "dropbp: the norm of a branch's own gradients needs an operation with "
                  "for_each_gradient(visit), which visits the gradient tensor of each of its "
                  "trained parameters (or a null pointer for an absent one).");
    double sum = 0.0;
    detail::for_each_gradient_of(op_, [&]<class T>(const T* gradient) {
      if (gradient != nullptr) sum += dropbp::squared_norm(*gradient);
    });
    return sum;
  }

  /// ||gradient of the output|| / ||gradient of the input|| in the last kept backward() of the
  /// layer, if BranchDecision::observes_stream was set and the gradient is a NormedTensor;
  /// otherwise 1. Waits for a device that still computes the norms.
  double stream_ratio() const { return stream_.ratio(); }

  /// Says that the next backward() gets the gradient that the last one of `upper` returned,
  /// unchanged, so that its norm need not be measured a second time.
  template <class O>
  void continues_stream_of(const DropBPLayer<O>& upper) {
    stream_.continue_from(upper.stream_);
  }

  /// Releases what was saved: call it after a forward pass that no backward will follow.
  void release() noexcept {
    saved_.reset();
    awaits_backward_ = false;
  }

  BranchCalls calls() const noexcept { return calls_; }           ///< number of passes
  void set_calls(BranchCalls calls) noexcept { calls_ = calls; }  ///< called by the handler

  /// From now on, adds the seconds of forward and backward passes to times(). Without a clock
  /// nothing is measured.
  void set_clock(detail::ClockReference clock) noexcept {
    clock_ = clock;
    times_ = {};
  }
  BranchTimes times() const noexcept { return times_; }  ///< seconds since set_clock, of all passes

  /// Called by the handler before each micro-step. Releases what an earlier micro-step saved
  /// without a backward, for example an interrupted step.
  void decide(const BranchDecision& decision) noexcept {
    decision_ = decision;
    if (forward_stamp_ != decision_.stamp) saved_.reset();
  }

 private:
  template <class>
  friend class DropBPLayer;

  // These are called in static_asserts, so that their messages come before the compiler's own.
  template <class T, class... Args>
  static constexpr bool require_forward() {
    static_assert(
        detail::has_forward<Op, T, Args...>,
        "dropbp: the operation needs forward(const T& x, Saved* saved, args...), which returns "
        "f(x), for the tensor type and the extra arguments that the layer was called with.");
    return true;
  }

  template <class T, class... Args>
  static constexpr bool require_backward() {
    static_assert(detail::has_backward<Op, T, Args...>,
                  "dropbp: the operation needs backward(const T& grad_output, Saved& saved, "
                  "args...), which returns the gradient of its input, for the tensor type and the "
                  "extra arguments that the layer was called with.");
    static_assert(
        !detail::never_calls<Op, detail::BackwardParameters, detail::Backward, T, Args...>,
        "dropbp: the operation's backward_parameters would never be called: it must take (const T& "
        "grad_output, Saved& saved, args...) with the extra arguments of backward.");
    return true;
  }

  template <class T, class... Args>
  static constexpr bool require_residual_forward() {
    static_assert(detail::require_data_pointer<T>());
    static_assert(Tensor<T>,
                  "dropbp: this tensor type does not know y += x: give it data() and size(), or "
                  "tensor_traits with accumulate (see tensor.hpp).");
    require_forward<T, Args...>();
    require_backward<T, detail::written<Args>...>();
    static_assert(!detail::has_forward<Op, T, Args...> ||
                      detail::returns_tensor<Op, detail::Forward, T, Args...>,
                  "dropbp: forward must return f(x) as a tensor of the type of x, to add it to x.");
    return true;
  }

  template <class T, class... Args>
  static constexpr bool require_forward_residual() {
    static_assert(!detail::never_calls<Op, detail::ForwardResidual, detail::Forward, T, Args...>,
                  "dropbp: the operation's forward_residual would never be called: it must take "
                  "(T& x, Saved* saved, args...) with the extra arguments of forward.");
    static_assert(!detail::has_member<Op, detail::ForwardResidual, T, Args...> ||
                      detail::works_in_place<Op, detail::ForwardResidual, T, Args...>,
                  "dropbp: forward_residual must add f(x) to x in place and return nothing: what "
                  "it returns would be lost.");
    return true;
  }

  template <class T, class... Args>
  static constexpr bool require_residual_backward() {
    static_assert(detail::require_data_pointer<T>());
    static_assert(Tensor<T>,
                  "dropbp: this gradient type does not know y += x: give it data() and size(), or "
                  "tensor_traits with accumulate (see tensor.hpp).");
    require_backward<T, Args...>();
    static_assert(
        !detail::has_backward<Op, T, Args...> ||
            detail::returns_tensor<Op, detail::Backward, T, Args...>,
        "dropbp: backward must return the gradient of its input as a tensor of the type of "
        "grad_output.");
    static_assert(!detail::never_calls<Op, detail::BackwardResidual, detail::Backward, T, Args...>,
                  "dropbp: the operation's backward_residual would never be called: it must take "
                  "(T& grad, Saved& saved, args...) with the extra arguments of backward.");
    static_assert(!detail::has_member<Op, detail::BackwardResidual, T, Args...> ||
                      detail::works_in_place<Op, detail::BackwardResidual, T, Args...>,
                  "dropbp: backward_residual must add the input's gradient to grad in place and "
                  "return nothing: what it returns would be lost.");
    return true;
  }

  template <class T, class... Args>
  void backward_parameters(const T& grad_output, Saved& saved, Args&&... args) {
    if constexpr (detail::has_member<Op, detail::BackwardParameters, T, Args...>)
      static_cast<void>(op_.backward_parameters(grad_output, saved, std::forward<Args>(args)...));
    else
      static_cast<void>(op_.backward(grad_output, saved, std::forward<Args>(args)...));
  }

  bool scales() const noexcept { return decision_.gradient_scale != 1.0 && !decision_.dropped; }

  template <class T>
  void require_scale() const {
    if constexpr (!ScalableTensor<T>)
      if (scales() && decision_.saves)
        detail::throw_order(
            "GradientScaling needs gradients that know y *= factor", "this tensor type does not",
            "give its tensor_traits scale(T& y, double factor), or choose GradientScaling::none");
  }

  // grad + scale * J^T grad. Because the operation is linear in the gradient, the gradient is
  // scaled before it and scaled back after it, so that no second buffer is needed.
  template <class T, class... Args>
  void backward_scaled(T& grad, Saved& saved, Args&&... args) {
    if constexpr (ScalableTensor<T>) {
      dropbp::scale(grad, decision_.gradient_scale);
      if (decision_.input_gradient_needed) {
        const T grad_input = op_.backward(std::as_const(grad), saved, std::forward<Args>(args)...);
        dropbp::scale(grad, 1.0 / decision_.gradient_scale);
        dropbp::accumulate(grad, grad_input);
      } else {
        backward_parameters(grad, saved, std::forward<Args>(args)...);
        dropbp::scale(grad, 1.0 / decision_.gradient_scale);
      }
    } else {
      require_scale<T>();
    }
  }

  void require_not_moved_from() const {
    if (moved_from_)
      detail::throw_order("a layer has passes until it is moved from", "this one was moved from",
                          "use the layer that it was moved to");
  }

  // Replaces what an earlier forward saved only after this one has succeeded.
  template <class Forward>
  auto run_forward(Forward forward) {
    require_not_moved_from();
    detail::require_not_inside_dropped(decision_);
    const double begin = clock_();
    std::optional<Saved> fresh;
    if (!decision_.dropped && decision_.saves && !detail::InsideDroppedBranch::inside())
      fresh.emplace();
    const detail::InsideDroppedBranch scope(decision_.dropped);
    const auto commit = [&] {
      saved_ = std::move(fresh);
      awaits_backward_ = decision_.saves;
      forward_stamp_ = decision_.stamp;
      ++calls_.forward;
      times_.forward += clock_() - begin;
    };
    Saved* const saved = fresh ? fresh.operator->() : nullptr;  // also if Saved overloads unary &
    if constexpr (std::is_void_v<decltype(forward(saved))>) {
      forward(saved);
      commit();
    } else {
      auto result = forward(saved);
      commit();
      return result;
    }
  }

  template <class Backward>
  void run_backward(Backward backward) {
    require_not_moved_from();
    if (!awaits_backward_)
      detail::throw_order(
          "each backward needs a forward of the same layer before it, outside of an evaluation",
          "there was none since the last backward or release()",
          "call forward first, once for every backward");
    if (forward_stamp_ != decision_.stamp || saved_.has_value() == decision_.dropped)
      detail::throw_order("forward and backward must belong to the same micro-step",
                          "the plan changed between them",
                          "call begin_step or begin_micro_step before the forward pass, not "
                          "between it and the backward");
    if (!decision_.dropped) {
      const double begin = clock_();
      backward(*saved_);
      times_.backward += clock_() - begin;
      ++calls_.backward;
    }
    if (!decision_.retains_saved) release();
  }

  Op op_;
  std::optional<Saved> saved_;
  BranchDecision decision_;
  BranchCalls calls_;
  BranchTimes times_;
  detail::ClockReference clock_;
  double cost_ = 1.0;
  detail::StreamNorms stream_;
  std::uint64_t forward_stamp_ = 0;
  bool awaits_backward_ = false;
  detail::MovedFrom moved_from_;
};

DROPBP_NAMESPACE_END
