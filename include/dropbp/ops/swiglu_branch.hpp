// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The MLP branch of a LLaMA block as an Operation: x -> down(silu(gate(n)) * up(n)), with n =
// rms_norm(x), and with what other families of models have in the place of that.
#pragma once

#include <span>
#include <string>
#include <utility>

#include "dropbp/ops/branch_memory.hpp"
#include "dropbp/ops/branch_norms.hpp"
#include "dropbp/ops/geglu.hpp"
#include "dropbp/ops/projection.hpp"
#include "dropbp/ops/residual_branch.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// Sizes of a SwiGLU branch, and how it differs from LLaMA's.
struct SwiGLUConfig {
  Index hidden = 0;        ///< width of the residual stream
  Index intermediate = 0;  ///< width of the hidden layer
  double norm_eps = 1e-5;  ///< of the RMSNorms
  LoraConfig lora = {};    ///< how the linear maps are fine-tuned; with adapters, norms as it says
  BranchNormNames norms = {"post_attention_layernorm", ""};  ///< which norms there are
  double norm_offset = 0.0;                                  ///< of all norms, see Norm
  Gate gate = Gate::silu;                                    ///< gelu_tanh makes it a GeGLU branch
  bool bias = false;   ///< gate_proj, up_proj and down_proj have biases
  bool fused = false;  ///< checkpoints have one gate_up_proj in the place of gate and up
};

/// What backward needs and cannot recompute in one pass over the rows.
template <class T, class Backend>
struct SwiGLUSaved {
  Matrix<T, Backend> x;                ///< [tokens, hidden]
  Matrix<Statistic<T>, Backend> rstd;  ///< [1, tokens]
  Matrix<T, Backend> gate_up;          ///< [tokens, 2 * intermediate]
  Matrix<T, Backend> u;       ///< [tokens, sum of the ranks of the adapters on gate and up]
  Matrix<T, Backend> u_down;  ///< [tokens, rank] if down_proj has an adapter
  typename OutputNorm<T, Backend>::Saved post = {};  ///< empty without a norm of the result
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

  InputNorm<T, Backend> norm;      ///< [1, hidden], of the input
  Projection<T, Backend> gate_up;  ///< [2 * intermediate, hidden]: gate_proj above up_proj
  Projection<T, Backend> down;     ///< [hidden, intermediate]
  OutputNorm<T, Backend> post;     ///< [1, hidden], of the result

  /// `prefix` precedes the parameters' Hugging Face names ("model.layers.0.").
  SwiGLUBranch(const SwiGLUConfig& config, BasicBranchMemory<Backend> memory,
               const std::string& prefix = "")
      : norm(norm_name(prefix, config.norms.input), checked(config).hidden, config.norm_eps,
             config.norm_offset),
        gate_up(gate_up_parts(config, prefix + "mlp."), config.hidden, config.lora,
                memory.workspace, config.bias),
        down({{prefix + "mlp.down_proj.weight", config.hidden}}, config.intermediate, config.lora,
             memory.workspace, config.bias),
        post(norm_name(prefix, config.norms.output), config.hidden, config.norm_eps,
             config.norm_offset),
        config_(config),
        memory_(std::move(memory)) {
    for_each_norm(
        [&](Norm<T, Backend>& one) { one.trained = config.lora.trains(one.parts().front().name); });
  }

  const SwiGLUConfig& config() const noexcept { return config_; }  ///< as constructed

  /// Calls visit(Parameter<T, Backend>&) for each parameter, trained or frozen. Quantised weights
  /// are not visited.
  template <class Visit>
  void for_each_parameter(const Visit& visit) {
    if (norm.exists()) visit(norm);
    gate_up.for_each_parameter(visit), down.for_each_parameter(visit);
    if (post.exists()) visit(post);
  }

  /// Calls visit(Norm<T, Backend>&) for each norm that exists.
  template <class Visit>
  void for_each_norm(const Visit& visit) {
    if (norm.exists()) visit(norm);
    if (post.exists()) visit(post);
  }

  /// Calls visit(Projection<T, Backend>&) for each projection.
  template <class Visit>
  void for_each_projection(const Visit& visit) {
    visit(gate_up), visit(down);
  }

  /// Whether any parameter is trained.
  bool trainable() const noexcept {
    return norm.trained || gate_up.trainable() || down.trainable() || post.trained;
  }

  /// Bytes that a kept branch saves from forward to backward.
  std::size_t saved_bytes(Index tokens) const {
    return saved_bytes(config_, tokens, gate_up.adapter_width() + down.adapter_width());
  }
  /// The same before there is a branch, for adapters that are alike in all branches.
  static std::size_t saved_bytes(const SwiGLUConfig& config, Index tokens) {
    Index adapters = Projection<T, Backend>::adapter_width({"down_proj"}, config.lora);
    adapters += config.fused
                    ? Projection<T, Backend>::adapter_width({"gate_up_proj"}, config.lora)
                    : Projection<T, Backend>::adapter_width({"gate_proj", "up_proj"}, config.lora);
    return saved_bytes(config, tokens, adapters);
  }

 private:
  friend Base;
  using View = MatrixView<T, Backend>;
  using ConstView = MatrixView<const T, Backend>;
  using Request = detail::GradientRequest<T, Backend>;

  BasicMemoryPool<Backend>& workspace() noexcept { return memory_.workspace; }

  static std::size_t saved_bytes(const SwiGLUConfig& config, Index tokens, Index adapters) {
    const Index outputs = config.norms.output.empty() ? 0 : 1,
                statistics = outputs + (config.norms.input.empty() ? 0 : 1);
    const Index elements = config.hidden * (1 + outputs) + 2 * config.intermediate + adapters;
    return static_cast<std::size_t>(tokens * elements) * sizeof(T) +
           static_cast<std::size_t>(tokens * statistics) * sizeof(Statistic<T>);
  }

  static const SwiGLUConfig& checked(const SwiGLUConfig& config) {
    if (config.hidden < 1 || config.intermediate < 1)
      detail::throw_invalid("a SwiGLU branch needs hidden and intermediate of at least 1",
                            std::to_string(config.hidden) + " and " +
                                std::to_string(config.intermediate) + " were given",
                            "take these sizes from the model's config.json");
    return config;
  }

  static std::string norm_name(const std::string& prefix, const std::string& name) {
    return name.empty() ? name : prefix + name + ".weight";
  }

  static std::vector<typename Projection<T, Backend>::Part> gate_up_parts(
      const SwiGLUConfig& config, const std::string& prefix) {
    if (config.fused) return {{prefix + "gate_up_proj.weight", 2 * config.intermediate}};
    return {{prefix + "gate_proj.weight", config.intermediate},
            {prefix + "up_proj.weight", config.intermediate}};
  }

  // See ResidualBranch.
  void run_forward(const Tensor& x, View y, Accumulate mode, Saved* saved,
                   const SequenceShape& shape) {
    detail::require_branch_input("SwiGLU", x.rows(), x.columns(), shape, config_.hidden);
    const Index tokens = shape.tokens();
    BasicMemoryPool<Backend>& pool = saved != nullptr ? memory_.saved : memory_.workspace;
    Saved kept;
    if (norm.exists()) kept.rstd = Statistics(1, tokens, pool);
    kept.gate_up = Tensor(tokens, 2 * config_.intermediate, pool);
    {
      Tensor room;
      const ConstView n = norm.forward_or_self(room, kept.rstd, x.view(), memory_.workspace);
      kept.u = Tensor(tokens, gate_up.adapter_width(), pool);
      gate_up.forward(kept.gate_up.view(), n, Accumulate::overwrite, kept.u.view());
    }
    Tensor activation(tokens, config_.intermediate, memory_.workspace);
    gate_forward(config_.gate, activation.view(), kept.gate_up.view());
    if (saved != nullptr) {
      kept.x = Tensor(tokens, config_.hidden, pool);
      copy<T>(kept.x.view(), x.view());
    }
    kept.u_down = Tensor(tokens, down.adapter_width(), pool);
    post.forward_of(
        [&](View to, Accumulate how) {
          down.forward(to, activation.view(), how, kept.u_down.view());
        },
        y, mode, kept.post, pool, memory_.workspace);
    if (saved != nullptr) *saved = std::move(kept);
  }

  void run_backward(const Tensor& grad_output, const Request& request, Saved& saved,
                    const SequenceShape& shape) {
    detail::require_branch_input("SwiGLU", grad_output.rows(), grad_output.columns(), shape,
                                 config_.hidden);
    detail::require_saved("SwiGLU", saved.x.rows(), shape.tokens());
    const Index tokens = shape.tokens();
    BasicMemoryPool<Backend>& pool = memory_.workspace;
    Tensor room;  // holds the gradient below the norm of the result
    const ConstView grad = post.backward_or_self(room, grad_output.view(), saved.post, pool);
    const bool below_gate_up = request.wants_input() || norm.trained;
    if (!below_gate_up && !gate_up.trainable()) {
      if (!down.trainable()) return;
      Tensor activation(tokens, config_.intermediate,
                        pool);  // recomputed; nothing below it needs a gradient
      gate_forward(config_.gate, activation.view(), saved.gate_up.view());
      down.backward_parameters(grad, activation.view(), saved.u_down.view(),
                               down.adapter_gradient(grad));
      return;
    }
    Tensor grad_gate_up(tokens, 2 * config_.intermediate, pool);
    {
      const Tensor grad_u = down.adapter_gradient(grad);
      Tensor activation(tokens, config_.intermediate, pool);  // holds its gradient, then its value
      down.backward_input(activation.view(), grad, grad_u);
      gate_backward(config_.gate, grad_gate_up.view(), activation.view(), saved.gate_up.view());
      down.backward_parameters(grad, activation.view(), saved.u_down.view(), grad_u);
    }
    norm.backward_through(gate_up, grad_gate_up.view(), saved.x.view(), saved.rstd, saved.u.view(),
                          request.grad_input, request.mode, pool);
  }

  SwiGLUConfig config_;
  BasicBranchMemory<Backend> memory_;
};

}  // namespace ops
DROPBP_NAMESPACE_END
