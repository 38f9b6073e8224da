// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Requirements of a residual branch: a forward that may save, and a backward that uses what was
// saved.
#pragma once

#include <concepts>
#include <type_traits>
#include <utility>

#include "dropbp/tensor.hpp"

DROPBP_NAMESPACE_BEGIN

namespace detail {

template <class Op>
concept has_saved =
    std::default_initializable<typename Op::Saved> && std::movable<typename Op::Saved>;

template <class R>
concept returns_something = !std::is_void_v<R>;

template <class Op, class T, class... Args>
concept has_forward = requires(Op& op, const T& x, typename Op::Saved* saved, Args&&... args) {
  { op.forward(x, saved, std::forward<Args>(args)...) } -> returns_something;
};

// A residual sum needs f(x) of the type of x.
template <class Op, class T, class... Args>
concept forward_returns_tensor =
    requires(Op& op, const T& x, typename Op::Saved* saved, Args&&... args) {
      { op.forward(x, saved, std::forward<Args>(args)...) } -> std::convertible_to<T>;
    };

template <class Op, class T, class... Args>
concept has_backward =
    requires(Op& op, const T& grad_output, typename Op::Saved& saved, Args&&... args) {
      { op.backward(grad_output, saved, std::forward<Args>(args)...) } -> returns_something;
    };

template <class Op, class T, class... Args>
concept backward_returns_tensor =
    requires(Op& op, const T& grad_output, typename Op::Saved& saved, Args&&... args) {
      { op.backward(grad_output, saved, std::forward<Args>(args)...) } -> std::convertible_to<T>;
    };

template <class Op, class T, class... Args>
concept has_forward_residual = requires(Op& op, T& x, typename Op::Saved* saved, Args&&... args) {
  op.forward_residual(x, saved, std::forward<Args>(args)...);
};

template <class Op, class T, class... Args>
concept has_backward_residual =
    requires(Op& op, T& grad, typename Op::Saved& saved, Args&&... args) {
      op.backward_residual(grad, saved, std::forward<Args>(args)...);
    };

template <class R>
concept returns_nothing_new = std::is_void_v<R> || std::is_lvalue_reference_v<R>;

template <class Op, class T, class... Args>
concept forward_residual_is_in_place =
    requires(Op& op, T& x, typename Op::Saved* saved, Args&&... args) {
      { op.forward_residual(x, saved, std::forward<Args>(args)...) } -> returns_nothing_new;
    };

template <class Op, class T, class... Args>
concept backward_residual_is_in_place =
    requires(Op& op, T& grad, typename Op::Saved& saved, Args&&... args) {
      { op.backward_residual(grad, saved, std::forward<Args>(args)...) } -> returns_nothing_new;
    };

template <class Op, class T, class... Args>
concept has_backward_parameters =
    requires(Op& op, const T& grad_output, typename Op::Saved& saved, Args&&... args) {
      op.backward_parameters(grad_output, saved, std::forward<Args>(args)...);
    };

// static constexpr bool backward_is_repeatable = true
template <class Op>
concept says_backward_is_repeatable = requires { requires Op::backward_is_repeatable; };

template <class Op>
concept has_cost = requires(const Op& op) {
  { op.cost() } -> std::convertible_to<double>;
};

template <class Op>
concept has_trainable = requires(const Op& op) {
  { op.trainable() } -> std::convertible_to<bool>;
};

// Detects optional members that exist but would never be called: Saved& and Saved* are confused,
// extra arguments are missing, or const is missing. Members for other tensors or disabled by a
// constraint are no mistakes.
template <class Op, class T, class... Args>
concept mistakes_forward_residual =
    !has_forward_residual<Op, T, Args...> &&
    (requires(Op& op, T& x, typename Op::Saved& saved, Args&&... args) {
      op.forward_residual(x, saved, std::forward<Args>(args)...);
    } || (has_forward_residual<Op, T> && !has_forward<Op, T>));

template <class Op, class T, class... Args>
concept mistakes_backward_residual =
    !has_backward_residual<Op, T, Args...> &&
    (requires(Op& op, T& grad, typename Op::Saved* saved, Args&&... args) {
      op.backward_residual(grad, saved, std::forward<Args>(args)...);
    } || (has_backward_residual<Op, T> && !has_backward<Op, T>));

template <class Op, class T, class... Args>
concept mistakes_backward_parameters =
    !has_backward_parameters<Op, T, Args...> &&
    (requires(Op& op, const T& grad_output, typename Op::Saved* saved, Args&&... args) {
      op.backward_parameters(grad_output, saved, std::forward<Args>(args)...);
    } || (has_backward_parameters<Op, T> && !has_backward<Op, T>));

template <class Op>
concept mistakes_cost = !has_cost<Op> && requires(Op& op) { op.cost(); };

template <class Op>
concept mistakes_trainable = !has_trainable<Op> && requires(Op& op) { op.trainable(); };

}  // namespace detail

/// A differentiable function f, the inside of a residual branch y = x + f(x), on tensors of type T
/// and with extra arguments Args (a mask, positions, an encoder's output) that are passed through:
///   struct Saved
///       what backward needs; made by the layer, released after backward
///   forward(const T& x, Saved* saved, args...)
/// returns f(x); with saved == nullptr it must save nothing and return the same bits
///   backward(const T& grad_output, Saved&, args...)
/// returns J^T grad_output, and adds the gradients of f's own parameters to the trainer's gradients
/// The returned tensors are new: they share no memory with the arguments. Optional members, used if
///       present, with the same extra arguments:
///   forward_residual(T& x, Saved*, args...)
/// x += f(x), in place; used if the layer gets an rvalue
///   backward_residual(T& grad, Saved&, args...)
///       grad += J^T grad, in place
///   backward_parameters(const T& grad_output, Saved&, args...)
/// only the parameters' gradients, used if grad_input is not needed
///   cost() const
///       the cost that drop rates are budgeted with
///   trainable() const
/// whether any parameter is trainable; the default is true
template <class Op, class T, class... Args>
concept Operation = detail::has_saved<Op> && detail::has_forward<Op, T, Args...> &&
                    detail::has_backward<Op, T, Args...>;

DROPBP_NAMESPACE_END
