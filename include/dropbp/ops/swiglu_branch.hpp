// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The MLP branch of a LLaMA block as an Operation: x -> down(silu(gate(n)) * up(n)), with n =
// rms_norm(x).
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
  Index intermediate = 0;  ///< width of the hidden layer
  double norm_eps = 1e-5;  ///< of the RMSNorm
  LoraConfig adaptation =
      {};  ///< how the linear maps are fine-tuned; with adapters the norm is frozen too
};

/// Tensors are Matrix<T, Backend> [batch * sequence, hidden]. backward may run more than once on
/// the same Saved.
template <class T, class Backend = Cpu>
class SwiGLUBranch {
 public:
  static constexpr bool backward_is_repeatable = true;  ///< backward does not change Saved

  using Tensor = Matrix<T, Backend>;                 ///< inputs and outputs
  using Statistics = Matrix<Statistic<T>, Backend>;  ///< of type float or wider

  /// What backward needs and cannot recompute in one pass over the rows.
  struct Saved {
    Tensor x;         ///< [tokens, hidden]
    Statistics rstd;  ///< [1, tokens]
    Tensor gate_up;   ///< [tokens, 2 * intermediate]
    Tensor u;         ///< [tokens, sum of the ranks of the adapters on gate and up]
    Tensor u_down;    ///< [tokens, rank] if down_proj has an adapter
  };

  Parameter<T, Backend> norm;      ///< [1, hidden]
  Projection<T, Backend> gate_up;  ///< [2 * intermediate, hidden]: gate_proj above up_proj
  Projection<T, Backend> down;     ///< [hidden, intermediate]

  /// `prefix` precedes the parameters' Hugging Face names ("model.layers.0.").
  SwiGLUBranch(const SwiGLUConfig& config, BasicBranchMemory<Backend> memory,
               const std::string& prefix = "")
      : norm(prefix + "post_attention_layernorm.weight", 1, checked(config).hidden),
        gate_up({{prefix + "mlp.gate_proj.weight", config.intermediate},
                 {prefix + "mlp.up_proj.weight", config.intermediate}},
                config.hidden, config.adaptation, memory.workspace),
        down({{prefix + "mlp.down_proj.weight", config.hidden}}, config.intermediate,
             config.adaptation, memory.workspace),
        config_(config),
        memory_(std::move(memory)) {
    norm.trained = !config.adaptation.enabled();
  }

  const SwiGLUConfig& config() const noexcept { return config_; }  ///< as constructed

  /// Calls visit(Parameter<T, Backend>&) for each parameter, trained or frozen. Quantised weights
  /// are not visited.
  template <class Visit>
  void for_each_parameter(const Visit& visit) {
    visit(norm), gate_up.for_each_parameter(visit), down.for_each_parameter(visit);
  }

  /// Calls visit(Projection<T, Backend>&) for each projection.
  template <class Visit>
  void for_each_projection(const Visit& visit) {
    visit(gate_up), visit(down);
  }

  /// Whether any parameter is trained.
  bool trainable() const noexcept {
    return norm.trained || gate_up.trainable() || down.trainable();
  }

  /// Calls visit with the gradient of each trained parameter, or null if it is absent; for
  /// RunningSensitivity.
  void for_each_gradient(auto&& visit) {
    for_each_parameter([&](Parameter<T, Backend>& parameter) {
      if (!parameter.trained) return;
      const auto elements = parameter.gradient_elements();
      visit(parameter.has_gradient() ? &elements : nullptr);
    });
  }

  /// Bytes that a kept branch saves from forward to backward.
  std::size_t saved_bytes(Index tokens) const {
    return saved_bytes(config_, tokens, gate_up.adapter_width() + down.adapter_width());
  }
  /// The same before there is a branch, for adapters that are alike in all branches.
  static std::size_t saved_bytes(const SwiGLUConfig& config, Index tokens) {
    return saved_bytes(config, tokens,
                       Projection<T, Backend>::adapter_width({"gate_proj", "up_proj", "down_proj"},
                                                             config.adaptation));
  }

  /// f(x), allocated from the workspace. Saves nothing if `saved` is null.
  Tensor forward(const Tensor& x, Saved* saved, const SequenceShape& shape) {
    Tensor y(x.rows(), x.columns(), memory_.workspace);
    run_forward(x, y.view(), Accumulate::overwrite, saved, shape);
    return y;
  }

  /// x += f(x). Saves nothing if `saved` is null.
  void forward_residual(Tensor& x, Saved* saved, const SequenceShape& shape) {
    run_forward(x, x.view(), Accumulate::add, saved, shape);
  }

  /// Returns J^T grad_output and computes the gradients of the trained parameters.
  Tensor backward(const Tensor& grad_output, Saved& saved, const SequenceShape& shape) {
    Tensor grad_input(grad_output.rows(), grad_output.columns(), memory_.workspace);
    run_backward(grad_output, grad_input.view(), Accumulate::overwrite, saved, shape);
    return grad_input;
  }

  /// grad += J^T grad; also computes the gradients of the trained parameters.
  void backward_residual(Tensor& grad, Saved& saved, const SequenceShape& shape) {
    run_backward(grad, grad.view(), Accumulate::add, saved, shape);
  }

  /// Computes only the gradients of the trained parameters.
  void backward_parameters(const Tensor& grad_output, Saved& saved, const SequenceShape& shape) {
    run_backward(grad_output, {}, Accumulate::overwrite, saved, shape);
  }

 private:
  using View = MatrixView<T, Backend>;

  static std::size_t saved_bytes(const SwiGLUConfig& config, Index tokens, Index adapters) {
    return static_cast<std::size_t>(tokens * (config.hidden + 2 * config.intermediate + adapters)) *
               sizeof(T) +
           static_cast<std::size_t>(tokens) * sizeof(Statistic<T>);
  }

  static const SwiGLUConfig& checked(const SwiGLUConfig& config) {
    if (config.hidden < 1 || config.intermediate < 1)
      detail::throw_invalid("a SwiGLU branch needs hidden and intermediate of at least 1",
                            std::to_string(config.hidden) + " and " +
                                std::to_string(config.intermediate) + " were given",
                            "take these sizes from the model's config.json");
    return config;
  }

  // y (=|+=) f(x). With Accumulate::add, y may be x itself.
  void run_forward(const Tensor& x, View y, Accumulate mode, Saved* saved,
                   const SequenceShape& shape) {
    detail::require_branch_input("SwiGLU", x.rows(), x.columns(), shape, config_.hidden);
    const Index tokens = shape.tokens();
    BasicMemoryPool<Backend>& pool = saved != nullptr ? memory_.saved : memory_.workspace;
    Saved kept;
    kept.rstd = Statistics(1, tokens, pool);
    kept.gate_up = Tensor(tokens, 2 * config_.intermediate, pool);
    {
      Tensor n(tokens, config_.hidden, memory_.workspace);
      rms_norm_forward(n.view(), kept.rstd.data(), x.view(), norm.value().data, config_.norm_eps);
      kept.u = Tensor(tokens, gate_up.adapter_width(), pool);
      gate_up.forward(kept.gate_up.view(), n.view(), Accumulate::overwrite, kept.u.view());
    }
    Tensor activation(tokens, config_.intermediate, memory_.workspace);
    swiglu_forward(activation.view(), kept.gate_up.view());
    if (saved != nullptr) {
      kept.x = Tensor(tokens, config_.hidden, pool);
      copy<T>(kept.x.view(), x.view());
    }
    kept.u_down = Tensor(tokens, down.adapter_width(), pool);
    down.forward(y, activation.view(), mode, kept.u_down.view());
    if (saved != nullptr) *saved = std::move(kept);
  }

  // grad_input (=|+=) J^T grad_output; also computes the gradients of the trained parameters. If
  // grad_input.data is null, computes only the parameters' gradients. With Accumulate::add,
  // grad_input may be grad_output itself.
  void run_backward(const Tensor& grad_output, View grad_input, Accumulate mode, Saved& saved,
                    const SequenceShape& shape) {
    detail::require_branch_input("SwiGLU", grad_output.rows(), grad_output.columns(), shape,
                                 config_.hidden);
    detail::require_saved("SwiGLU", saved.x.rows(), shape.tokens());
    const Index tokens = shape.tokens();
    BasicMemoryPool<Backend>& pool = memory_.workspace;
    const bool below_gate_up = grad_input.data != nullptr || norm.trained;
    if (!below_gate_up && !gate_up.trainable()) {
      if (!down.trainable()) return;
      Tensor activation(tokens, config_.intermediate,
                        pool);  // recomputed; nothing below it needs a gradient
      swiglu_forward(activation.view(), saved.gate_up.view());
      down.backward_parameters(grad_output.view(), activation.view(), saved.u_down.view(),
                               down.adapter_gradient(grad_output.view()));
      return;
    }
    Tensor grad_gate_up(tokens, 2 * config_.intermediate, pool);
    {
      const Tensor grad_u = down.adapter_gradient(grad_output.view());
      Tensor activation(tokens, config_.intermediate, pool);  // holds its gradient, then its value
      down.backward_input(activation.view(), grad_output.view(), grad_u);
      swiglu_backward(grad_gate_up.view(), activation.view(), saved.gate_up.view());
      down.backward_parameters(grad_output.view(), activation.view(), saved.u_down.view(), grad_u);
    }
    const Tensor grad_u = gate_up.adapter_gradient(grad_gate_up.view());
    Tensor n(tokens, config_.hidden, pool);  // holds the norm's output, then its gradient
    if (gate_up.trainable()) {
      rms_norm_recompute(n.view(), saved.x.view(), norm.value().data, saved.rstd.data());
      gate_up.backward_parameters(grad_gate_up.view(), n.view(), saved.u.view(), grad_u);
    }
    if (!below_gate_up) return;
    gate_up.backward_input(n.view(), grad_gate_up.view(), grad_u);
    rms_norm_backward(grad_input, mode, n.view(), saved.x.view(), norm, saved.rstd.data(), pool);
  }

  SwiGLUConfig config_;
  BasicBranchMemory<Backend> memory_;
};

}  // namespace ops
DROPBP_NAMESPACE_END
