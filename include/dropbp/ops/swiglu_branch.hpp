// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The MLP branch of a LLaMA block as an Operation: x -> down(silu(gate(n)) * up(n)) with n = rms_norm(x).
#pragma once

#include <span>
#include <string>
#include <utility>

#include "dropbp/ops/branch_memory.hpp"
#include "dropbp/ops/projection.hpp"
#include "dropbp/ops/rms_norm.hpp"
#include "dropbp/ops/swiglu.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// Sizes of a SwiGLU branch.
struct SwiGLUConfig {
  Index hidden = 0;        ///< width of the residual stream
  Index intermediate = 0;  ///< units
  double norm_eps = 1e-5;  ///< of the RMS norm
  Adaptation adaptation = {};  ///< how the linear maps are fine-tuned; with adapters the norm is frozen as well
};

/// Tensors are Matrix<T> [batch * sequence, hidden]. backward may run more than once on one saved state.
template <class T>
class SwiGLUBranch {
 public:
  static constexpr bool backward_is_repeatable = true;  ///< it leaves Saved as it was

  /// What backward needs and cannot recompute in one pass over a row.
  struct Saved {
    Matrix<T> x;        ///< [tokens, hidden]
    Matrix<T> rstd;     ///< [1, tokens]
    Matrix<T> gate_up;  ///< [tokens, 2 * intermediate]
    Matrix<T> u;        ///< [tokens, adapters of gate_up * rank]
    Matrix<T> u_down;   ///< [tokens, rank], if down_proj has an adapter
  };

  Parameter<T> norm;      ///< [1, hidden]
  Projection<T> gate_up;  ///< [2 * intermediate, hidden]: gate_proj above up_proj
  Projection<T> down;     ///< [hidden, intermediate]

  /// `prefix` leads the parameters' Hugging Face names ("model.layers.0.").
  SwiGLUBranch(const SwiGLUConfig& config, BranchMemory memory, const std::string& prefix = "")
      : norm(prefix + "post_attention_layernorm.weight", 1, checked(config).hidden),
        gate_up({{prefix + "mlp.gate_proj.weight", config.intermediate}, {prefix + "mlp.up_proj.weight", config.intermediate}},
                config.hidden, config.adaptation, memory.workspace),
        down({{prefix + "mlp.down_proj.weight", config.hidden}}, config.intermediate, config.adaptation, memory.workspace),
        config_(config), memory_(std::move(memory)) {
    norm.trained = !config.adaptation.enabled();
  }

  const SwiGLUConfig& config() const noexcept { return config_; }  ///< as it was made

  /// visit(Parameter<T>&) for each, trained or not; a quantised weight is none.
  template <class Visit>
  void for_each_parameter(const Visit& visit) {
    visit(norm), gate_up.for_each_parameter(visit), down.for_each_parameter(visit);
  }

  /// visit(Projection<T>&) for each.
  template <class Visit>
  void for_each_projection(const Visit& visit) {
    visit(gate_up), visit(down);
  }

  /// Whether any parameter trains.
  bool trains() const noexcept { return norm.trained || gate_up.trains() || down.trains(); }

  /// Of its trained parameters, null where absent: for RunningSensitivity.
  void for_each_gradient(auto&& visit) {
    for_each_parameter([&](Parameter<T>& parameter) {
      if (!parameter.trained) return;
      const MatrixView<T> gradient = parameter.has_gradient() ? parameter.gradient() : MatrixView<T>{};
      const std::span<const T> elements(gradient.data, parameter.has_gradient() ? parameter.size() : 0);
      visit(parameter.has_gradient() ? &elements : nullptr);
    });
  }

  /// Bytes that one kept branch keeps between forward and backward.
  static std::size_t saved_bytes(const SwiGLUConfig& config, Index tokens) {
    const Index adapters = Projection<T>::adapter_width({"gate_proj", "up_proj", "down_proj"}, config.adaptation);
    return static_cast<std::size_t>(tokens * (config.hidden + 1 + 2 * config.intermediate + adapters)) * sizeof(T);
  }

  /// f(x), from the workspace; saves nothing where `saved` is null.
  Matrix<T> forward(const Matrix<T>& x, Saved* saved, const SequenceShape& shape) {
    Matrix<T> y(x.rows(), x.columns(), memory_.workspace);
    run_forward(x, y.view(), Accumulate::overwrite, saved, shape);
    return y;
  }

  /// x += f(x).
  void forward_residual(Matrix<T>& x, Saved* saved, const SequenceShape& shape) {
    run_forward(x, x.view(), Accumulate::add, saved, shape);
  }

  /// J^T grad_output, and the gradients of the trained parameters.
  Matrix<T> backward(const Matrix<T>& grad_output, Saved& saved, const SequenceShape& shape) {
    Matrix<T> grad_input(grad_output.rows(), grad_output.columns(), memory_.workspace);
    run_backward(grad_output, grad_input.view(), Accumulate::overwrite, saved, shape);
    return grad_input;
  }

  /// grad += J^T grad, and the gradients of the trained parameters.
  void backward_residual(Matrix<T>& grad, Saved& saved, const SequenceShape& shape) {
    run_backward(grad, grad.view(), Accumulate::add, saved, shape);
  }

  /// The gradients of the trained parameters only.
  void backward_parameters(const Matrix<T>& grad_output, Saved& saved, const SequenceShape& shape) {
    run_backward(grad_output, {}, Accumulate::overwrite, saved, shape);
  }

 private:
  static const SwiGLUConfig& checked(const SwiGLUConfig& config) {
    if (config.hidden < 1 || config.intermediate < 1)
      detail::throw_invalid("a SwiGLU branch needs hidden and intermediate of at least 1",
                            std::to_string(config.hidden) + " and " + std::to_string(config.intermediate) + " were given",
                            "take these sizes from the model's config.json");
    return config;
  }

  // y (=|+=) branch(x); y may be x itself when it adds.
  void run_forward(const Matrix<T>& x, MatrixView<T> y, Accumulate mode, Saved* saved, const SequenceShape& shape) {
    detail::require_branch_input("SwiGLU", x.rows(), x.columns(), shape, config_.hidden);
    const Index tokens = shape.tokens();
    MemoryPool& pool = saved != nullptr ? memory_.saved : memory_.workspace;
    Saved kept;
    kept.rstd = Matrix<T>(1, tokens, pool);
    kept.gate_up = Matrix<T>(tokens, 2 * config_.intermediate, pool);
    {
      Matrix<T> n(tokens, config_.hidden, memory_.workspace);
      rms_norm_forward(n.view(), kept.rstd.data(), x.view(), norm.value().data, config_.norm_eps);
      kept.u = Matrix<T>(tokens, gate_up.adapter_width(), pool);
      gate_up.forward(kept.gate_up.view(), n.view(), Accumulate::overwrite, kept.u.view());
    }
    Matrix<T> activation(tokens, config_.intermediate, memory_.workspace);
    swiglu_forward(activation.view(), kept.gate_up.view());
    if (saved != nullptr) {
      kept.x = Matrix<T>(tokens, config_.hidden, pool);
      copy<T>(kept.x.view(), x.view());
    }
    kept.u_down = Matrix<T>(tokens, down.adapter_width(), pool);
    down.forward(y, activation.view(), mode, kept.u_down.view());
    if (saved != nullptr) *saved = std::move(kept);
  }

  // grad_input (=|+=) J^T grad_output and the parameters' gradients; without grad_input (data == nullptr) only what the
  // trained parameters need. grad_input may be grad_output itself when it adds.
  void run_backward(const Matrix<T>& grad_output, MatrixView<T> grad_input, Accumulate mode, Saved& saved,
                    const SequenceShape& shape) {
    detail::require_branch_input("SwiGLU", grad_output.rows(), grad_output.columns(), shape, config_.hidden);
    detail::require_saved("SwiGLU", saved.x.rows(), shape.tokens());
    const Index tokens = shape.tokens();
    MemoryPool& pool = memory_.workspace;
    const bool below_gate_up = grad_input.data != nullptr || norm.trained;
    if (!below_gate_up && !gate_up.trains()) {
      if (!down.trains()) return;
      Matrix<T> activation(tokens, config_.intermediate, pool);  // that of forward again, and nothing below it
      swiglu_forward(activation.view(), saved.gate_up.view());
      down.backward_parameters(grad_output.view(), activation.view(), saved.u_down.view(), down.adapter_gradient(grad_output.view()));
      return;
    }
    Matrix<T> grad_gate_up(tokens, 2 * config_.intermediate, pool);
    {
      const Matrix<T> grad_u = down.adapter_gradient(grad_output.view());
      Matrix<T> activation(tokens, config_.intermediate, pool);  // its gradient, then itself
      down.backward_input(activation.view(), grad_output.view(), grad_u);
      swiglu_backward(grad_gate_up.view(), activation.view(), saved.gate_up.view());
      down.backward_parameters(grad_output.view(), activation.view(), saved.u_down.view(), grad_u);
    }
    const Matrix<T> grad_u = gate_up.adapter_gradient(grad_gate_up.view());
    Matrix<T> n(tokens, config_.hidden, pool);  // the norm's output, then its gradient
    if (gate_up.trains()) {
      rms_norm_recompute(n.view(), saved.x.view(), norm.value().data, saved.rstd.data());
      gate_up.backward_parameters(grad_gate_up.view(), n.view(), saved.u.view(), grad_u);
    }
    if (!below_gate_up) return;
    gate_up.backward_input(n.view(), grad_gate_up.view(), grad_u);
    rms_norm_backward(grad_input, mode, n.view(), saved.x.view(), norm, saved.rstd.data(), pool);
  }

  SwiGLUConfig config_;
  BranchMemory memory_;
};

}  // namespace ops
DROPBP_NAMESPACE_END
