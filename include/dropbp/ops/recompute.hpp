// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Activation recomputation: an operation saves only its input and repeats its forward pass in its
// backward pass (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost").
#pragma once

#include <memory>
#include <utility>

#include "dropbp/kernels/matrix.hpp"
#include "dropbp/operation.hpp"
#include "dropbp/ops/elementwise.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// Wraps Op, an Operation on Matrix<T, Backend>. It needs less memory, runs one more forward pass
/// per backward pass, and gives the same bits. All other members of Op (parameters, configuration,
/// FLOPs) are inherited. Recomputation and dropping combine: a dropped branch neither saves nor
/// recomputes.
///
/// While enabled, Op's own Saved lives only within a backward pass, so give Op the workspace as its
/// pool of saved activations. The class is in ops/, not in the core, because it allocates the copy
/// of the input as a Matrix from a pool.
template <class Op, class T, class Backend = Cpu>
class Recompute : public Op {
  static_assert(dropbp::detail::has_saved<Op>,
                "dropbp: Recompute wraps an operation, with a default-constructible, movable "
                "member type `struct Saved`.");

  template <class... Args>
  static constexpr bool runs_forward =
      dropbp::detail::has_forward<Op, Matrix<T, Backend>, Args&...>;
  template <class... Args>
  static constexpr bool runs_backward =
      dropbp::detail::has_backward<Op, Matrix<T, Backend>, Args&...> && runs_forward<Args...>;

 public:
  /// Equal to Op's value, which matters while recomputation is disabled. While it is enabled,
  /// backward never changes Saved.
  static constexpr bool backward_is_repeatable = dropbp::detail::says_backward_is_repeatable<Op>;

  /// What backward needs.
  struct Saved {
    Matrix<T, Backend> x;     ///< the input; empty if recomputation is disabled
    typename Op::Saved rest;  ///< what Op saves if recomputation is disabled
  };

  /// Allocates copies of the inputs from `saved`. If `enabled` is false, the object behaves like
  /// Op, so that a run-time choice needs only one type.
  Recompute(Op op, BasicMemoryPool<Backend> saved, bool enabled = true)
      : Op(std::move(op)), pool_(std::move(saved)), enabled_(enabled) {}

  bool enabled() const noexcept { return enabled_; }  ///< false: behaves like Op

  /// f(x).
  template <class... Args>
    requires runs_forward<Args...>
  auto forward(const Matrix<T, Backend>& x, Saved* saved, Args&&... args) {
    return Op::forward(x, keep(x, saved), args...);
  }

  /// x += f(x).
  template <class... Args>
    requires dropbp::detail::has_member<Op, dropbp::detail::ForwardResidual, Matrix<T, Backend>,
                                        Args&...>
  void forward_residual(Matrix<T, Backend>& x, Saved* saved, Args&&... args) {
    Op::forward_residual(x, keep(x, saved), args...);
  }

  /// Returns J^T grad_output and computes the gradients of the trained parameters.
  template <class... Args>
    requires runs_backward<Args...>
  auto backward(const Matrix<T, Backend>& grad_output, Saved& saved, Args&&... args) {
    if (!enabled_) return Op::backward(grad_output, saved.rest, args...);
    typename Op::Saved rest = again(saved, args...);
    return Op::backward(grad_output, rest, args...);
  }

  /// grad += J^T grad; also computes the gradients of the trained parameters.
  template <class... Args>
    requires(dropbp::detail::has_member<Op, dropbp::detail::BackwardResidual, Matrix<T, Backend>,
                                        Args&...> &&
             runs_forward<Args...>)
  void backward_residual(Matrix<T, Backend>& grad, Saved& saved, Args&&... args) {
    if (!enabled_) return static_cast<void>(Op::backward_residual(grad, saved.rest, args...));
    typename Op::Saved rest = again(saved, args...);
    Op::backward_residual(grad, rest, args...);
  }

  /// Computes only the gradients of the trained parameters.
  template <class... Args>
    requires(dropbp::detail::has_member<Op, dropbp::detail::BackwardParameters, Matrix<T, Backend>,
                                        Args&...> &&
             runs_forward<Args...>)
  void backward_parameters(const Matrix<T, Backend>& grad_output, Saved& saved, Args&&... args) {
    if (!enabled_)
      return static_cast<void>(Op::backward_parameters(grad_output, saved.rest, args...));
    typename Op::Saved rest = again(saved, args...);
    Op::backward_parameters(grad_output, rest, args...);
  }

 private:
  // Saves the input if recomputation is enabled. Returns where Op is to save its own activations,
  // or null.
  typename Op::Saved* keep(const Matrix<T, Backend>& x, Saved* saved) {
    if (saved == nullptr) return nullptr;
    if (!enabled_) return std::addressof(saved->rest);
    saved->x = Matrix<T, Backend>(x.rows(), x.columns(), pool_);
    copy<T>(saved->x.view(), x.view());
    return nullptr;
  }

  template <class... Args>
  typename Op::Saved again(const Saved& saved, Args&... args) {
    typename Op::Saved rest;
    static_cast<void>(Op::forward(saved.x, &rest, args...));
    return rest;
  }

  BasicMemoryPool<Backend> pool_;
  bool enabled_;
};

}  // namespace ops
DROPBP_NAMESPACE_END
