// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The members that make a branch of ops an Operation, from one forward and one backward pass.
#pragma once

#include "dropbp/ops/branch_memory.hpp"
#include "dropbp/ops/parameter.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {
namespace detail {

/// What a backward pass computes beside the gradients of the trained parameters.
template <class T, class Backend>
struct GradientRequest {
  MatrixView<T, Backend> grad_input = {};   ///< where J^T grad_output goes; null data: nowhere
  Accumulate mode = Accumulate::overwrite;  ///< with add, grad_input may be grad_output itself

  bool wants_input() const noexcept { return grad_input.data != nullptr; }
};

/// The base of a branch. `Branch` has the following members; the last three are private, with this
/// base as a friend:
///
/// - `for_each_parameter(visit)`
/// - `run_forward(const Tensor& x, View y, Accumulate, Saved*, const SequenceShape&)`:
///   y (=|+=) f(x); with Accumulate::add, y may be x itself
/// - `run_backward(const Tensor& grad_output, GradientRequest, Saved&, const SequenceShape&)`
/// - `workspace()`:
///   the pool of results
template <class Branch, class SavedActivations, class T, class Backend>
class ResidualBranch {
 public:
  using Tensor = Matrix<T, Backend>;                 ///< inputs and outputs
  using Statistics = Matrix<Statistic<T>, Backend>;  ///< of type float or wider
  using Saved = SavedActivations;  ///< what backward needs and cannot recompute in one pass

  static constexpr bool backward_is_repeatable = true;  ///< backward does not change Saved

  /// f(x), allocated from the workspace. Saves nothing if `saved` is null.
  Tensor forward(const Tensor& x, Saved* saved, const SequenceShape& shape) {
    Tensor y(x.rows(), x.columns(), branch().workspace());
    branch().run_forward(x, y.view(), Accumulate::overwrite, saved, shape);
    return y;
  }

  /// x += f(x). Saves nothing if `saved` is null.
  void forward_residual(Tensor& x, Saved* saved, const SequenceShape& shape) {
    branch().run_forward(x, x.view(), Accumulate::add, saved, shape);
  }

  /// Returns J^T grad_output and computes the gradients of the trained parameters.
  Tensor backward(const Tensor& grad_output, Saved& saved, const SequenceShape& shape) {
    Tensor grad_input(grad_output.rows(), grad_output.columns(), branch().workspace());
    branch().run_backward(grad_output, Request{grad_input.view()}, saved, shape);
    return grad_input;
  }

  /// grad += J^T grad; also computes the gradients of the trained parameters.
  void backward_residual(Tensor& grad, Saved& saved, const SequenceShape& shape) {
    branch().run_backward(grad, Request{grad.view(), Accumulate::add}, saved, shape);
  }

  /// Computes only the gradients of the trained parameters.
  void backward_parameters(const Tensor& grad_output, Saved& saved, const SequenceShape& shape) {
    branch().run_backward(grad_output, Request{}, saved, shape);
  }

  /// Calls visit with the gradient of each trained parameter, or null if it is absent; for
  /// RunningSensitivity.
  void for_each_gradient(auto&& visit) {
    branch().for_each_parameter([&](Parameter<T, Backend>& parameter) {
      if (!parameter.trained) return;
      const auto elements = parameter.gradient_elements();
      visit(parameter.has_gradient() ? &elements : nullptr);
    });
  }

 private:
  using Request = GradientRequest<T, Backend>;

  Branch& branch() noexcept { return static_cast<Branch&>(*this); }
};

}  // namespace detail
}  // namespace ops
DROPBP_NAMESPACE_END
