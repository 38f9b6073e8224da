// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Requirements of a residual branch: a forward that may save, and a backward that uses what was
// saved.
#pragma once

#include <concepts>
#include <type_traits>
#include <utility>

#include "dropbp/base/member.hpp"
#include "dropbp/tensor.hpp"

DROPBP_NAMESPACE_BEGIN

namespace detail {

template <class Op>
concept has_saved =
    std::default_initializable<typename Op::Saved> && std::movable<typename Op::Saved>;

// The members of an operation, for the concepts of base/member.hpp. A forward pass takes a pointer
// to Saved, a backward pass a reference.
struct TakesSavedPointer {
  template <class Op>
  using Saved = typename Op::Saved*;
  template <class Op>
  using OtherSaved = typename Op::Saved&;
};
struct TakesSavedReference {
  template <class Op>
  using Saved = typename Op::Saved&;
  template <class Op>
  using OtherSaved = typename Op::Saved*;
};

struct Forward : TakesSavedPointer {
  template <class Op, class T, class S, class... Args>
  auto operator()(Op& op, const T& x, S&& saved, Args&&... args) const
      -> decltype(op.forward(x, saved, std::forward<Args>(args)...));
};
struct ForwardResidual : TakesSavedPointer {
  template <class Op, class T, class S, class... Args>
  auto operator()(Op& op, T& x, S&& saved, Args&&... args) const
      -> decltype(op.forward_residual(x, saved, std::forward<Args>(args)...));
};
struct Backward : TakesSavedReference {
  template <class Op, class T, class S, class... Args>
  auto operator()(Op& op, const T& grad_output, S&& saved, Args&&... args) const
      -> decltype(op.backward(grad_output, saved, std::forward<Args>(args)...));
};
struct BackwardResidual : TakesSavedReference {
  template <class Op, class T, class S, class... Args>
  auto operator()(Op& op, T& grad, S&& saved, Args&&... args) const
      -> decltype(op.backward_residual(grad, saved, std::forward<Args>(args)...));
};
struct BackwardParameters : TakesSavedReference {
  template <class Op, class T, class S, class... Args>
  auto operator()(Op& op, const T& grad_output, S&& saved, Args&&... args) const
      -> decltype(op.backward_parameters(grad_output, saved, std::forward<Args>(args)...));
};
struct Cost {
  template <class Op>
  auto operator()(Op& op) const -> decltype(op.cost());
};
struct Flops {  // the name of Cost before version 0.2
  template <class Op>
  auto operator()(Op& op) const -> decltype(op.flops());
};
struct Trainable {
  template <class Op>
  auto operator()(Op& op) const -> decltype(op.trainable());
};

// The operation has the member, for tensors T and the extra arguments Args.
template <class Op, class Member, class T, class... Args>
concept has_member = can_call<Member, Op, T&, typename Member::template Saved<Op>, Args...>;

template <class Op, class Member, class T, class... Args>
using returned = result_of<Member, Op, T&, typename Member::template Saved<Op>, Args...>;

template <class Op, class T, class... Args>
concept has_forward =
    has_member<Op, Forward, T, Args...> && !std::is_void_v<returned<Op, Forward, T, Args...>>;

template <class Op, class T, class... Args>
concept has_backward =
    has_member<Op, Backward, T, Args...> && !std::is_void_v<returned<Op, Backward, T, Args...>>;

// An extra argument of forward as backward may have it: forward reads an encoder's output, perhaps
// a constant, and backward writes its gradient.
template <class Arg>
using written = std::conditional_t<std::is_lvalue_reference_v<Arg>, std::remove_cvref_t<Arg>&, Arg>;

// The member returns a tensor, as a residual sum needs.
template <class Op, class Member, class T, class... Args>
concept returns_tensor =
    has_member<Op, Member, T, Args...> && std::convertible_to<returned<Op, Member, T, Args...>, T>;

// The member returns nothing, or a reference to its argument.
template <class Op, class Member, class T, class... Args>
concept works_in_place = has_member<Op, Member, T, Args...> &&
                         (std::is_void_v<returned<Op, Member, T, Args...>> ||
                          std::is_lvalue_reference_v<returned<Op, Member, T, Args...>>);

// An optional member exists but would never be called, because it takes Saved& where Saved* is
// passed (or the reverse), or lacks the extra arguments that `Required` takes. A member for other
// tensor types, or one that a constraint disables, is fine.
template <class Op, class Member, class Required, class T, class... Args>
concept never_calls =
    !has_member<Op, Member, T, Args...> &&
    (can_call<Member, Op, T&, typename Member::template OtherSaved<Op>, Args...> ||
     (has_member<Op, Member, T> && !has_member<Op, Required, T>));

// static constexpr bool backward_is_repeatable = true
template <class Op>
concept says_backward_is_repeatable = requires { requires Op::backward_is_repeatable; };

}  // namespace detail

/// A differentiable function f, the inside of a residual branch y = x + f(x), on tensors of type T
/// and with extra arguments Args (a mask, positions, an encoder's output) that are passed through:
///
/// - `struct Saved`:
///   what backward needs; made by the layer, released after backward
/// - `forward(const T& x, Saved* saved, args...)`:
///   returns f(x); with saved == nullptr it must save nothing and return the same bits
/// - `backward(const T& grad_output, Saved&, args...)`:
///   returns J^T grad_output, and adds the gradients of f's own parameters to the trainer's
///   gradients
///
/// The returned tensors are new: they share no memory with the arguments. Optional members, used if
/// present, with the same extra arguments:
///
/// - `forward_residual(T& x, Saved*, args...)`:
///   x += f(x), in place; used if the layer gets an rvalue
/// - `backward_residual(T& grad, Saved&, args...)`:
///   grad += J^T grad, in place
/// - `backward_parameters(const T& grad_output, Saved&, args...)`:
///   computes only the parameters' gradients; used if grad_input is not needed
/// - `cost() const`:
///   the cost of one forward pass, for the budget of the drop rates
/// - `trainable() const`:
///   whether any parameter is trainable; without this member DropOptions::trainable decides
template <class Op, class T, class... Args>
concept Operation = detail::has_saved<Op> && detail::has_forward<Op, T, Args...> &&
                    detail::has_backward<Op, T, Args...>;

DROPBP_NAMESPACE_END
