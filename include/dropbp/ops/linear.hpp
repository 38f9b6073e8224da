// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A linear map as an Operation: y = x W^T.
#pragma once

#include <string>
#include <utility>

#include "dropbp/ops/elementwise.hpp"
#include "dropbp/ops/gemm.hpp"
#include "dropbp/ops/parameter.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// y [tokens, output] = x [tokens, input] W^T, with W [output, input].
template <class T, class Backend = Cpu>
class Linear {
 public:
  /// What backward needs.
  struct Saved {
    Matrix<T, Backend> x;  ///< [tokens, input]
  };

  Parameter<T, Backend> weight;  ///< [output, input]

  /// Allocates saved inputs from `saved`, results from `workspace`.
  Linear(std::string name, Index output, Index input, BasicMemoryPool<Backend> saved,
         BasicMemoryPool<Backend> workspace)
      : weight(std::move(name), output, input),
        saved_(std::move(saved)),
        workspace_(std::move(workspace)) {}

  /// y, allocated from the workspace. Saves nothing if `saved` is null.
  Matrix<T, Backend> forward(const Matrix<T, Backend>& x, Saved* saved) {
    if (saved != nullptr) {
      saved->x = Matrix<T, Backend>(x.rows(), x.columns(), saved_);
      copy<T>(saved->x.view(), x.view());
    }
    Matrix<T, Backend> y(x.rows(), weight.rows(), workspace_);
    gemm_nt(y.view(), x.view(), weight.value());
    return y;
  }

  /// Returns the gradient of x, grad_output W, and computes the gradient of a trained weight.
  Matrix<T, Backend> backward(const Matrix<T, Backend>& grad_output, Saved& saved) {
    backward_parameters(grad_output, saved);
    Matrix<T, Backend> grad_input(grad_output.rows(), weight.columns(), workspace_);
    gemm_nn(grad_input.view(), grad_output.view(), weight.value());
    return grad_input;
  }

  /// Computes only the gradient of a trained weight, grad_output^T x.
  void backward_parameters(const Matrix<T, Backend>& grad_output, Saved& saved) {
    if (!weight.trained) return;
    const Accumulate mode = weight.begin_gradient();
    gemm_tn(weight.gradient(), grad_output.view(), saved.x.view(), mode);
  }

 private:
  BasicMemoryPool<Backend> saved_, workspace_;
};

}  // namespace ops
DROPBP_NAMESPACE_END
