// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The norms at both ends of a residual branch. LLaMA has one at the input, OLMo 2 one at the
// output, Gemma both.
#pragma once

#include <utility>

#include "dropbp/ops/branch_traits.hpp"
#include "dropbp/ops/norm.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// The norm of a branch's input, or none.
template <class T, class Backend = Cpu>
class InputNorm : public Norm<T, Backend> {
 public:
  using View = MatrixView<T, Backend>;               ///< of outputs
  using ConstView = MatrixView<const T, Backend>;    ///< of inputs
  using Statistics = Matrix<Statistic<T>, Backend>;  ///< rstd [1, tokens]
  using Norm<T, Backend>::Norm;

  /// norm(x), written to `room`, which gets its memory here; x itself without a norm.
  ConstView forward_or_self(Matrix<T, Backend>& room, Statistics& rstd, ConstView x,
                            BasicMemoryPool<Backend>& workspace) const {
    if (!this->exists()) return x;
    room = {x.rows, x.columns, workspace};
    this->forward(room.view(), rstd, x, workspace);
    return std::as_const(room).view();
  }

  /// The backward pass of maps(norm(x)), `maps` being a Projection: the gradients of the trained
  /// parameters of both and, unless grad_input.data is null, grad_input (=|+=) the gradient of x.
  template <class Projection>
  void backward_through(Projection& maps, ConstView grad_output, ConstView x,
                        const Statistics& rstd, ConstView u, View grad_input, Accumulate mode,
                        BasicMemoryPool<Backend>& workspace) {
    const Matrix<T, Backend> grad_u = maps.adapter_gradient(grad_output);
    const bool in_place = !this->exists() && mode == Accumulate::overwrite;
    Matrix<T, Backend> room;  // holds the norm's output, then the gradient of the maps' input
    if (!in_place) room = {x.rows, x.columns, workspace};
    if (maps.trainable()) {
      if (this->exists()) this->recompute(room.view(), x, rstd, workspace);
      maps.backward_parameters(grad_output, this->exists() ? std::as_const(room).view() : x, u,
                               grad_u);
    }
    if (grad_input.data == nullptr && !this->trained) return;
    maps.backward_input(in_place ? grad_input : room.view(), grad_output, grad_u);
    if (this->exists())
      this->backward(grad_input, mode, room.view(), x, rstd, workspace);
    else if (!in_place)
      ops::accumulate<T>(grad_input, room.view());
  }
};

/// The norm of a branch's result, before it joins the residual stream, or none.
template <class T, class Backend = Cpu>
class OutputNorm : public Norm<T, Backend> {
 public:
  using View = MatrixView<T, Backend>;             ///< of outputs
  using ConstView = MatrixView<const T, Backend>;  ///< of inputs
  using Norm<T, Backend>::Norm;

  /// What backward needs.
  struct Saved {
    Matrix<T, Backend> y;                ///< [tokens, hidden], before the norm
    Matrix<Statistic<T>, Backend> rstd;  ///< [1, tokens]
  };

  /// y (=|+=) norm(r), with the r that write(View to, Accumulate) writes. `saved` gets memory from
  /// `pool`.
  template <class Write>
  void forward_of(const Write& write, View y, Accumulate mode, Saved& saved,
                  BasicMemoryPool<Backend>& pool, BasicMemoryPool<Backend>& workspace) const {
    if (!this->exists()) return write(y, mode);
    saved.y = {y.rows, y.columns, pool};
    saved.rstd = {1, y.rows, pool};
    write(saved.y.view(), Accumulate::overwrite);
    if (mode == Accumulate::overwrite)
      return this->forward(y, saved.rstd, saved.y.view(), workspace);
    Matrix<T, Backend> normed(y.rows, y.columns, workspace);
    this->forward(normed.view(), saved.rstd, saved.y.view(), workspace);
    ops::accumulate<T>(y, normed.view());
  }

  /// The gradient of r, written to `room`, which gets its memory here; grad_output itself without a
  /// norm. Also computes the gradient of a trained weight.
  ConstView backward_or_self(Matrix<T, Backend>& room, ConstView grad_output, const Saved& saved,
                             BasicMemoryPool<Backend>& workspace) {
    if (!this->exists()) return grad_output;
    room = {grad_output.rows, grad_output.columns, workspace};
    this->backward(room.view(), Accumulate::overwrite, grad_output, saved.y.view(), saved.rstd,
                   workspace);
    return std::as_const(room).view();
  }
};

}  // namespace ops
DROPBP_NAMESPACE_END
