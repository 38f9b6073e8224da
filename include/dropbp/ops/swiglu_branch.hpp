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
#include "dropbp/ops/residual_branch.hpp"
#include "dropbp/ops/rms_norm.hpp"
#include "dropbp/ops/swiglu.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// Sizes of a SwiGLU branch.
struct SwiGLUConfig {
  Index hidden = 0;        ///< width of the residual stream
  Index intermediate = 0;  ///< width of the hidden layer
  double norm_eps = 1e-5;  ///< of the RMSNorm
  LoraConfig lora =
      {};  ///< how the linear maps are fine-tuned; with adapters the norm is frozen too
};

/// What backward needs and cannot recompute in one pass over the rows.
template <class T, class Backend>
struct SwiGLUSaved {
  Matrix<T, Backend> x;                ///< [tokens, hidden]
  Matrix<Statistic<T>, Backend> rstd;  ///< [1, tokens]
  Matrix<T, Backend> gate_up;          ///< [tokens, 2 * intermediate]
  Matrix<T, Backend> u;       ///< [tokens, sum of the ranks of the adapters on gate and up]
  Matrix<T, Backend> u_down;  ///< [tokens, rank] if down_proj has an adapter
};

/// Tensors are Matrix<T, Backend> [batch * sequence, hidden]. backward may run more than once on
/// the same Saved.
template <class T, class Backend = Cpu>
class SwiGLUBranch
    : public detail::ResidualBranch<SwiGLUBranch<T, Backend>, SwiGLUSaved<T, Backend>, T, Backend> {
  using Base =
      detail::ResidualBranch<SwiGLUBranch<T, Backend>, SwiGLUSaved<T, Backend>, T, Backend>;

 public:
  using typename Base::Saved, typename Base::Statistics, typename Base::Tensor;

  Parameter<T, Backend> norm;      ///< [1, hidden]
  Projection<T, Backend> gate_up;  ///< [2 * intermediate, hidden]: gate_proj above up_proj
  Projection<T, Backend> down;     ///< [hidden, intermediate]

  /// `prefix` precedes the parameters' Hugging Face names ("model.layers.0.").
  SwiGLUBranch(const SwiGLUConfig& config, BasicBranchMemory<Backend> memory,
               const std::string& prefix = "")
      : norm(prefix + "post_attention_layernorm.weight", 1, checked(config).hidden),
        gate_up({{prefix + "mlp.gate_proj.weight", config.intermediate},
                 {prefix + "mlp.up_proj.weight", config.intermediate}},
                config.hidden, config.lora, memory.workspace),
        down({{prefix + "mlp.down_proj.weight", config.hidden}}, config.intermediate, config.lora,
             memory.workspace),
        config_(config),
        memory_(std::move(memory)) {
    norm.trained = !config.lora.enabled();
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

  /// Bytes that a kept branch saves from forward to backward.
  std::size_t saved_bytes(Index tokens) const {
    return saved_bytes(config_, tokens, gate_up.adapter_width() + down.adapter_width());
  }
  /// The same before there is a branch, for adapters that are alike in all branches.
  static std::size_t saved_bytes(const SwiGLUConfig& config, Index tokens) {
    return saved_bytes(
        config, tokens,
        Projection<T, Backend>::adapter_width({"gate_proj", "up_proj", "down_proj"}, config.lora));
  }

 private:
  friend Base;
  using View = MatrixView<T, Backend>;
  using Request = detail::GradientRequest<T, Backend>;

  BasicMemoryPool<Backend>& workspace() noexcept { return memory_.workspace; }

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

  // See ResidualBranch.
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

  void run_backward(const Tensor& grad_output, const Request& request, Saved& saved,
                    const SequenceShape& shape) {
    detail::require_branch_input("SwiGLU", grad_output.rows(), grad_output.columns(), shape,
                                 config_.hidden);
    detail::require_saved("SwiGLU", saved.x.rows(), shape.tokens());
    const Index tokens = shape.tokens();
    BasicMemoryPool<Backend>& pool = memory_.workspace;
    const bool below_gate_up = request.wants_input() || norm.trained;
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
    rms_norm_backward(request.grad_input, request.mode, n.view(), saved.x.view(), norm,
                      saved.rstd.data(), pool);
  }

  SwiGLUConfig config_;
  BasicBranchMemory<Backend> memory_;
};

}  // namespace ops
DROPBP_NAMESPACE_END
