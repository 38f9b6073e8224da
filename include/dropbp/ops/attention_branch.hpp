// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The attention branch of a LLaMA block as an Operation: x ->
// o_proj(attention(rope(qkv_proj(rms_norm(x))))).
#pragma once

#include <memory>
#include <span>
#include <string>
#include <utility>

#include "dropbp/ops/attention.hpp"
#include "dropbp/ops/branch_memory.hpp"
#include "dropbp/ops/projection.hpp"
#include "dropbp/ops/residual_branch.hpp"
#include "dropbp/ops/rms_norm.hpp"
#include "dropbp/ops/rope.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// Sizes of an attention branch.
struct AttentionConfig {
  Index hidden = 0;        ///< width of the residual stream
  Index heads = 1;         ///< query heads
  Index kv_heads = 0;      ///< 0: equal to heads
  Index head_size = 0;     ///< 0: hidden / heads
  double norm_eps = 1e-5;  ///< of the RMSNorm
  LoraConfig lora =
      {};            ///< how the linear maps are fine-tuned; with adapters the norm is frozen too
  Index window = 0;  ///< keys that a query sees, its own included; 0: all up to its own

  /// The head layout, with the zeros above replaced by their meaning.
  HeadLayout layout() const noexcept {
    return {heads, kv_heads == 0 ? heads : kv_heads, head_size == 0 ? hidden / heads : head_size,
            window};
  }
};

/// What backward needs and cannot recompute in one pass over the rows.
template <class T, class Backend>
struct AttentionSaved {
  Matrix<T, Backend> x;                ///< [tokens, hidden]
  Matrix<Statistic<T>, Backend> rstd;  ///< [1, tokens]
  Matrix<T, Backend> qkv;  ///< [tokens, (heads + 2 kv_heads) * head_size], q and k rotated
  Matrix<T, Backend> o;    ///< [tokens, heads * head_size]
  Matrix<Statistic<T>, Backend>
      lse;                 ///< [batch * heads, sequence]: log of the softmax's denominators
  Matrix<T, Backend> u;    ///< [tokens, rank * number of adapters on q, k and v]
  Matrix<T, Backend> u_o;  ///< [tokens, rank] if o_proj has an adapter
};

/// Tensors are Matrix<T, Backend> [batch * sequence, hidden]. backward may run more than once on
/// the same Saved.
template <class T, class Backend = Cpu>
class AttentionBranch : public detail::ResidualBranch<AttentionBranch<T, Backend>,
                                                      AttentionSaved<T, Backend>, T, Backend> {
  using Base =
      detail::ResidualBranch<AttentionBranch<T, Backend>, AttentionSaved<T, Backend>, T, Backend>;

 public:
  using typename Base::Saved, typename Base::Statistics, typename Base::Tensor;

  Parameter<T, Backend> norm;  ///< [1, hidden]
  Projection<T, Backend> qkv;  ///< [(heads + 2 kv_heads) * head_size, hidden]: q, then k, then v
  Projection<T, Backend> o;    ///< [hidden, heads * head_size]

  /// `prefix` precedes the parameters' Hugging Face names ("model.layers.0."). All branches may
  /// share one table.
  AttentionBranch(const AttentionConfig& config,
                  std::shared_ptr<const RopeTable<T, Backend>> rope_table,
                  BasicBranchMemory<Backend> memory, const std::string& prefix = "")
      : norm(prefix + "input_layernorm.weight", 1, checked(config, *rope_table).hidden),
        qkv({{prefix + "self_attn.q_proj.weight", config.layout().q_width()},
             {prefix + "self_attn.k_proj.weight", config.layout().kv_width()},
             {prefix + "self_attn.v_proj.weight", config.layout().kv_width()}},
            config.hidden, config.lora, memory.workspace),
        o({{prefix + "self_attn.o_proj.weight", config.hidden}}, config.layout().q_width(),
          config.lora, memory.workspace),
        config_(config),
        layout_(config.layout()),
        rope_(std::move(rope_table)),
        memory_(std::move(memory)) {
    norm.trained = !config.lora.enabled();
  }

  const AttentionConfig& config() const noexcept { return config_; }  ///< as constructed

  /// Calls visit(Parameter<T, Backend>&) for each parameter, trained or frozen. Quantised weights
  /// are not visited.
  template <class Visit>
  void for_each_parameter(const Visit& visit) {
    visit(norm), qkv.for_each_parameter(visit), o.for_each_parameter(visit);
  }

  /// Calls visit(Projection<T, Backend>&) for each projection.
  template <class Visit>
  void for_each_projection(const Visit& visit) {
    visit(qkv), visit(o);
  }

  /// Whether any parameter is trained.
  bool trainable() const noexcept { return norm.trained || qkv.trainable() || o.trainable(); }

  /// Bytes that a kept branch saves from forward to backward.
  static std::size_t saved_bytes(const AttentionConfig& config, Index tokens) {
    const HeadLayout layout = config.layout();
    const Index adapters = Projection<T, Backend>::adapter_width(
        {"q_proj", "k_proj", "v_proj", "o_proj"}, config.lora);
    const Index elements = config.hidden + layout.qkv_width() + layout.q_width() + adapters,
                statistics = 1 + layout.heads;
    return static_cast<std::size_t>(tokens * elements) * sizeof(T) +
           static_cast<std::size_t>(tokens * statistics) * sizeof(Statistic<T>);
  }

 private:
  friend Base;
  using View = MatrixView<T, Backend>;
  using Request = detail::GradientRequest<T, Backend>;

  BasicMemoryPool<Backend>& workspace() noexcept { return memory_.workspace; }

  static const AttentionConfig& checked(const AttentionConfig& config,
                                        const RopeTable<T, Backend>& table) {
    const Index kv_heads = config.kv_heads == 0 ? config.heads : config.kv_heads;
    if (config.hidden < 1 || config.heads < 1 || kv_heads < 1 || config.heads % kv_heads != 0 ||
        (config.head_size == 0 && config.hidden % config.heads != 0) || config.head_size < 0)
      detail::throw_invalid(
          "attention needs sizes of at least 1, heads that divide hidden (or a head_size) and "
          "kv_heads that divide heads",
          "hidden " + std::to_string(config.hidden) + ", heads " + std::to_string(config.heads) +
              ", kv_heads " + std::to_string(config.kv_heads) + ", head_size " +
              std::to_string(config.head_size) + " were given",
          "take these sizes from the model's config.json");
    if (table.head_size() != config.layout().head_size)
      detail::throw_invalid("the rope table must be made for the branch's head_size " +
                                std::to_string(config.layout().head_size),
                            "it was made for " + std::to_string(table.head_size()),
                            "make one table for all branches of a model");
    return config;
  }

  void require_shapes(const Tensor& x, const SequenceShape& shape) const {
    detail::require_branch_input("attention", x.rows(), x.columns(), shape, config_.hidden);
    if (shape.sequence > rope_->max_sequence())
      detail::throw_invalid("sequences must not be longer than the rope table (" +
                                std::to_string(rope_->max_sequence()) + ")",
                            std::to_string(shape.sequence) + " was given",
                            "make a longer table or shorter sequences");
  }

  // See ResidualBranch.
  void run_forward(const Tensor& x, View y, Accumulate mode, Saved* saved,
                   const SequenceShape& shape) {
    require_shapes(x, shape);
    const Index tokens = shape.tokens();
    BasicMemoryPool<Backend>& pool = saved != nullptr ? memory_.saved : memory_.workspace;
    Saved kept;
    kept.rstd = Statistics(1, tokens, pool);
    kept.qkv = Tensor(tokens, layout_.qkv_width(), pool);
    {
      Tensor n(tokens, config_.hidden, memory_.workspace);
      rms_norm_forward(n.view(), kept.rstd.data(), x.view(), norm.value().data, config_.norm_eps);
      kept.u = Tensor(tokens, qkv.adapter_width(), pool);
      qkv.forward(kept.qkv.view(), n.view(), Accumulate::overwrite, kept.u.view());
    }
    rope(kept.qkv.view(), *rope_, layout_.heads + layout_.kv_heads, shape.sequence,
         Rotation::forward);
    kept.o = Tensor(tokens, layout_.q_width(), pool);
    kept.lse = Statistics(shape.batch * layout_.heads, shape.sequence, pool);
    attention_forward(kept.o.view(), kept.lse.data(), kept.qkv.view(), layout_, shape);
    if (saved != nullptr) {
      kept.x = Tensor(tokens, config_.hidden, pool);
      copy<T>(kept.x.view(), x.view());
    }
    kept.u_o = Tensor(tokens, o.adapter_width(), pool);
    o.forward(y, kept.o.view(), mode, kept.u_o.view());
    if (saved != nullptr) *saved = std::move(kept);
  }

  void run_backward(const Tensor& grad_output, const Request& request, Saved& saved,
                    const SequenceShape& shape) {
    require_shapes(grad_output, shape);
    detail::require_saved("attention", saved.x.rows(), shape.tokens());
    const Index tokens = shape.tokens();
    BasicMemoryPool<Backend>& pool = memory_.workspace;
    const Tensor grad_u_o = o.adapter_gradient(grad_output.view());
    o.backward_parameters(grad_output.view(), saved.o.view(), saved.u_o.view(), grad_u_o);
    const bool below_qkv = request.wants_input() || norm.trained;
    if (!below_qkv && !qkv.trainable()) return;
    Tensor grad_qkv(tokens, layout_.qkv_width(), pool);
    {
      Tensor grad_o(tokens, layout_.q_width(), pool);
      o.backward_input(grad_o.view(), grad_output.view(), grad_u_o);
      attention_backward(grad_qkv.view(), grad_o.view(), saved.qkv.view(), saved.o.view(),
                         saved.lse.data(), layout_, shape);
    }
    rope(grad_qkv.view(), *rope_, layout_.heads + layout_.kv_heads, shape.sequence,
         Rotation::inverse);
    const Tensor grad_u = qkv.adapter_gradient(grad_qkv.view());
    Tensor n(tokens, config_.hidden, pool);  // holds the norm's output, then its gradient
    if (qkv.trainable()) {
      rms_norm_recompute(n.view(), saved.x.view(), norm.value().data, saved.rstd.data());
      qkv.backward_parameters(grad_qkv.view(), n.view(), saved.u.view(), grad_u);
    }
    if (!below_qkv) return;
    qkv.backward_input(n.view(), grad_qkv.view(), grad_u);
    rms_norm_backward(request.grad_input, request.mode, n.view(), saved.x.view(), norm,
                      saved.rstd.data(), pool);
  }

  AttentionConfig config_;
  HeadLayout layout_;
  std::shared_ptr<const RopeTable<T, Backend>> rope_;
  BasicBranchMemory<Backend> memory_;
};

}  // namespace ops
DROPBP_NAMESPACE_END
