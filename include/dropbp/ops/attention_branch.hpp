// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The attention branch of a LLaMA block as an Operation: x ->
// o_proj(attention(rope(qkv_proj(rms_norm(x))))), with what other families of models add to it.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "dropbp/ops/attention.hpp"
#include "dropbp/ops/branch_memory.hpp"
#include "dropbp/ops/branch_norms.hpp"
#include "dropbp/ops/projection.hpp"
#include "dropbp/ops/residual_branch.hpp"
#include "dropbp/ops/rope.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// Sizes of an attention branch, and how it differs from LLaMA's.
struct AttentionConfig {
  Index hidden = 0;        ///< width of the residual stream
  Index heads = 1;         ///< query heads
  Index kv_heads = 0;      ///< 0: equal to heads
  Index head_size = 0;     ///< 0: hidden / heads
  double norm_eps = 1e-5;  ///< of the RMSNorms
  LoraConfig lora = {};    ///< how the linear maps are fine-tuned; with adapters, norms as it says
  Index window = 0;        ///< keys that a query sees, its own included; 0: all up to its own
  double softcap = 0.0;    ///< the scores s become softcap * tanh(s / softcap); 0: they stay
  double query_scale = 0.0;  ///< multiplies the scores; 0: 1 / sqrt(head_size)
  BranchNormNames norms = {"input_layernorm", ""};  ///< which norms there are
  double norm_offset = 0.0;                         ///< of all norms, see Norm
  HeadNorm head_norm = HeadNorm::none;              ///< q_norm and k_norm
  bool qkv_bias = false;                            ///< q_proj, k_proj and v_proj have biases
  bool o_bias = false;                              ///< o_proj has a bias
  bool fused = false;      ///< checkpoints have one qkv_proj in the place of q, k and v
  bool any_order = false;  ///< see HeadLayout

  /// The head layout, with the zeros above replaced by their meaning.
  HeadLayout layout() const noexcept {
    return {heads,
            kv_heads == 0 ? heads : kv_heads,
            head_size == 0 ? hidden / heads : head_size,
            window,
            softcap,
            any_order};
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
  Matrix<T, Backend> u;    ///< [tokens, sum of the ranks of the adapters on q, k and v]
  Matrix<T, Backend> u_o;  ///< [tokens, rank] if o_proj has an adapter
  typename HeadNorms<T, Backend>::Saved heads = {};  ///< empty without norms of heads
  typename OutputNorm<T, Backend>::Saved post = {};  ///< empty without a norm of the result
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

  InputNorm<T, Backend> norm;   ///< [1, hidden], of the input
  Projection<T, Backend> qkv;   ///< [(heads + 2 kv_heads) * head_size, hidden]: q, then k, then v
  HeadNorms<T, Backend> heads;  ///< of q and k
  Projection<T, Backend> o;     ///< [hidden, heads * head_size]
  OutputNorm<T, Backend> post;  ///< [1, hidden], of the result

  /// `prefix` precedes the parameters' Hugging Face names ("model.layers.0."). All branches may
  /// share one table; without one nothing is rotated. A table of fewer elements than a head rotates
  /// the first elements of each.
  AttentionBranch(const AttentionConfig& config,
                  std::shared_ptr<const RopeTable<T, Backend>> rope_table,
                  BasicBranchMemory<Backend> memory, const std::string& prefix = "")
      : norm(norm_name(prefix, config.norms.input), checked(config, rope_table.get()).hidden,
             config.norm_eps, config.norm_offset),
        qkv(qkv_parts(config, prefix + "self_attn."), config.hidden, config.lora, memory.workspace,
            config.qkv_bias),
        heads(head_norms(config, prefix + "self_attn.")),
        o({{prefix + "self_attn.o_proj.weight", config.hidden}}, config.layout().q_width(),
          config.lora, memory.workspace, config.o_bias),
        post(norm_name(prefix, config.norms.output), config.hidden, config.norm_eps,
             config.norm_offset),
        config_(config),
        layout_(config.layout()),
        rope_(std::move(rope_table)),
        memory_(std::move(memory)) {
    for_each_norm(
        [&](Norm<T, Backend>& one) { one.trained = config.lora.trains(one.parts().front().name); });
  }

  const AttentionConfig& config() const noexcept { return config_; }  ///< as constructed

  /// Calls visit(Parameter<T, Backend>&) for each parameter, trained or frozen. Quantised weights
  /// are not visited.
  template <class Visit>
  void for_each_parameter(const Visit& visit) {
    if (norm.exists()) visit(norm);
    qkv.for_each_parameter(visit);
    if (heads.exists()) visit(heads.q), visit(heads.k);
    o.for_each_parameter(visit);
    if (post.exists()) visit(post);
  }

  /// Calls visit(Norm<T, Backend>&) for each norm that exists.
  template <class Visit>
  void for_each_norm(const Visit& visit) {
    if (norm.exists()) visit(norm);
    if (heads.exists()) visit(heads.q), visit(heads.k);
    if (post.exists()) visit(post);
  }

  /// Calls visit(Projection<T, Backend>&) for each projection.
  template <class Visit>
  void for_each_projection(const Visit& visit) {
    visit(qkv), visit(o);
  }

  /// Whether any parameter is trained.
  bool trainable() const noexcept {
    return norm.trained || qkv.trainable() || heads.trained() || o.trainable() || post.trained;
  }

  /// Bytes that a kept branch saves from forward to backward.
  std::size_t saved_bytes(Index tokens) const {
    return saved_bytes(config_, tokens, qkv.adapter_width() + o.adapter_width());
  }
  /// The same before there is a branch, for adapters that are alike in all branches.
  static std::size_t saved_bytes(const AttentionConfig& config, Index tokens) {
    Index adapters = Projection<T, Backend>::adapter_width({"o_proj"}, config.lora);
    adapters += config.fused ? Projection<T, Backend>::adapter_width({"qkv_proj"}, config.lora)
                             : Projection<T, Backend>::adapter_width({"q_proj", "k_proj", "v_proj"},
                                                                     config.lora);
    return saved_bytes(config, tokens, adapters);
  }

  /// x += f(x) for the next tokens of one sequence, of which `before` have passed. The first rows
  /// of `cache` [tokens of the whole sequence, qkv_width] hold the rotated rows of those before;
  /// the rows of x are added to them. On the CPU.
  void forward_cached(Tensor& x, Tensor& cache, Index before)
    requires std::same_as<Backend, Cpu>
  {
    const Index tokens = x.rows();
    require_shapes(x, {1, tokens});
    const Index longest =
        rope_ == nullptr ? cache.rows() : (std::min)(cache.rows(), rope_->max_sequence());
    if (before < 0 || before + tokens > longest || cache.columns() != layout_.qkv_width())
      detail::throw_invalid("a cache needs a row of " + std::to_string(layout_.qkv_width()) +
                                " elements for each token, of at most as many as the rope table's",
                            detail::shape_text(cache.rows(), cache.columns()) + " was given for " +
                                std::to_string(before) + " + " + std::to_string(tokens) +
                                " tokens, of at most " + std::to_string(longest),
                            "make the cache, and the table, for the longest sequence");
    BasicMemoryPool<Backend>& pool = memory_.workspace;
    const View rows = cache.view().rows_from(before, tokens);
    Saved unused;
    project(rows, x, unused, pool, before, tokens);
    Tensor attended(tokens, layout_.q_width(), pool);
    attention_forward_last<T>(attended.view(), cache.view().rows_from(0, before + tokens), layout_);
    Tensor u(tokens, o.adapter_width(), pool);
    post.forward_of([&](View to, Accumulate how) { o.forward(to, attended.view(), how, u.view()); },
                    x.view(), Accumulate::add, unused.post, pool, pool);
  }

 private:
  friend Base;
  using View = MatrixView<T, Backend>;
  using ConstView = MatrixView<const T, Backend>;
  using Request = detail::GradientRequest<T, Backend>;

  BasicMemoryPool<Backend>& workspace() noexcept { return memory_.workspace; }

  static std::size_t saved_bytes(const AttentionConfig& config, Index tokens, Index adapters) {
    const HeadLayout layout = config.layout();
    Index elements = config.hidden + layout.qkv_width() + layout.q_width() + adapters,
          statistics = layout.heads + (config.norms.input.empty() ? 0 : 1);
    if (config.head_norm != HeadNorm::none) {
      elements += layout.q_width() + layout.kv_width();
      statistics += config.head_norm == HeadNorm::per_head ? layout.heads + layout.kv_heads : 2;
    }
    if (!config.norms.output.empty()) elements += config.hidden, ++statistics;
    return static_cast<std::size_t>(tokens * elements) * sizeof(T) +
           static_cast<std::size_t>(tokens * statistics) * sizeof(Statistic<T>);
  }

  static const AttentionConfig& checked(const AttentionConfig& config,
                                        const RopeTable<T, Backend>* table) {
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
    if (table != nullptr && table->head_size() > config.layout().head_size)
      detail::throw_invalid("the rope table must be made for the branch's head_size " +
                                std::to_string(config.layout().head_size) + ", or for a part of it",
                            "it was made for " + std::to_string(table->head_size()),
                            "make one table for all branches of a model");
    return config;
  }

  static std::string norm_name(const std::string& prefix, const std::string& name) {
    return name.empty() ? name : prefix + name + ".weight";
  }

  static std::vector<typename Projection<T, Backend>::Part> qkv_parts(const AttentionConfig& config,
                                                                      const std::string& prefix) {
    const HeadLayout layout = config.layout();
    if (config.fused) return {{prefix + "qkv_proj.weight", layout.qkv_width()}};
    return {{prefix + "q_proj.weight", layout.q_width()},
            {prefix + "k_proj.weight", layout.kv_width()},
            {prefix + "v_proj.weight", layout.kv_width()}};
  }

  static HeadNorms<T, Backend> head_norms(const AttentionConfig& config,
                                          const std::string& prefix) {
    using One = Norm<T, Backend>;
    if (config.head_norm == HeadNorm::none) return {One("", 1, 1.0), One("", 1, 1.0)};
    const HeadLayout layout = config.layout();
    const bool whole = config.head_norm == HeadNorm::whole_row;
    return {One(prefix + "q_norm.weight", whole ? layout.q_width() : layout.head_size,
                config.norm_eps, config.norm_offset),
            One(prefix + "k_norm.weight", whole ? layout.kv_width() : layout.head_size,
                config.norm_eps, config.norm_offset)};
  }

  void require_shapes(const Tensor& x, const SequenceShape& shape) const {
    detail::require_branch_input("attention", x.rows(), x.columns(), shape, config_.hidden);
    if (rope_ != nullptr && shape.sequence > rope_->max_sequence())
      detail::throw_invalid("sequences must not be longer than the rope table (" +
                                std::to_string(rope_->max_sequence()) + ")",
                            std::to_string(shape.sequence) + " was given",
                            "make a longer table or shorter sequences");
  }

  // rows = what attention takes of x, whose first row has the position `first` in sequences of that
  // length. What is kept for the backward pass gets memory from `pool`.
  void project(View rows, const Tensor& x, Saved& kept, BasicMemoryPool<Backend>& pool, Index first,
               Index sequence) {
    if (norm.exists()) kept.rstd = Statistics(1, x.rows(), pool);
    {
      Tensor room;
      const ConstView n = norm.forward_or_self(room, kept.rstd, x.view(), memory_.workspace);
      kept.u = Tensor(x.rows(), qkv.adapter_width(), pool);
      qkv.forward(rows, n, Accumulate::overwrite, kept.u.view());
    }
    heads.forward(rows, layout_, kept.heads, pool, memory_.workspace);
    turn(rows, sequence, Rotation::forward, first);
  }

  // Heads before the rotation <-> what attention takes, in place: rotated, and scaled so that the
  // kernel's 1 / sqrt(head_size) makes query_scale.
  void turn(View fused_rows, Index sequence, Rotation rotation, Index first = 0) const {
    const double factor = config_.query_scale * std::sqrt(static_cast<double>(layout_.head_size));
    if (factor != 0.0 && factor != 1.0)
      scale(fused_rows.columns_from(0, layout_.q_width()), factor);
    if (rope_ != nullptr)
      rope(fused_rows, *rope_, layout_.heads + layout_.kv_heads, sequence, rotation, first,
           layout_.head_size);
  }

  // See ResidualBranch.
  void run_forward(const Tensor& x, View y, Accumulate mode, Saved* saved,
                   const SequenceShape& shape) {
    require_shapes(x, shape);
    const Index tokens = shape.tokens();
    BasicMemoryPool<Backend>& pool = saved != nullptr ? memory_.saved : memory_.workspace;
    Saved kept;
    kept.qkv = Tensor(tokens, layout_.qkv_width(), pool);
    project(kept.qkv.view(), x, kept, pool, 0, shape.sequence);
    kept.o = Tensor(tokens, layout_.q_width(), pool);
    kept.lse = Statistics(shape.batch * layout_.heads, shape.sequence, pool);
    attention_forward(kept.o.view(), kept.lse.data(), kept.qkv.view(), layout_, shape);
    if (saved != nullptr) {
      kept.x = Tensor(tokens, config_.hidden, pool);
      copy<T>(kept.x.view(), x.view());
    }
    kept.u_o = Tensor(tokens, o.adapter_width(), pool);
    post.forward_of(
        [&](View to, Accumulate how) { o.forward(to, kept.o.view(), how, kept.u_o.view()); }, y,
        mode, kept.post, pool, memory_.workspace);
    if (saved != nullptr) *saved = std::move(kept);
  }

  void run_backward(const Tensor& grad_output, const Request& request, Saved& saved,
                    const SequenceShape& shape) {
    require_shapes(grad_output, shape);
    detail::require_saved("attention", saved.x.rows(), shape.tokens());
    const Index tokens = shape.tokens();
    BasicMemoryPool<Backend>& pool = memory_.workspace;
    Tensor room;  // holds the gradient below the norm of the result
    const ConstView grad = post.backward_or_self(room, grad_output.view(), saved.post, pool);
    const Tensor grad_u_o = o.adapter_gradient(grad);
    o.backward_parameters(grad, saved.o.view(), saved.u_o.view(), grad_u_o);
    const bool below_qkv = request.wants_input() || norm.trained;
    if (!below_qkv && !qkv.trainable() && !heads.trained()) return;
    Tensor grad_qkv(tokens, layout_.qkv_width(), pool);
    {
      Tensor grad_o(tokens, layout_.q_width(), pool);
      o.backward_input(grad_o.view(), grad, grad_u_o);
      attention_backward(grad_qkv.view(), grad_o.view(), saved.qkv.view(), saved.o.view(),
                         saved.lse.data(), layout_, shape);
    }
    turn(grad_qkv.view(), shape.sequence, Rotation::inverse);
    heads.backward(grad_qkv.view(), layout_, saved.heads, pool);
    norm.backward_through(qkv, grad_qkv.view(), saved.x.view(), saved.rstd, saved.u.view(),
                          request.grad_input, request.mode, pool);
  }

  AttentionConfig config_;
  HeadLayout layout_;
  std::shared_ptr<const RopeTable<T, Backend>> rope_;
  BasicBranchMemory<Backend> memory_;
};

}  // namespace ops
DROPBP_NAMESPACE_END
