// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The model of examples/llama without DropBP: the same operations, but no layer and no handler, and
// every branch saves and runs its backward pass. step_time measures the library's overhead against
// it.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "llama/model/model.hpp"

namespace bench {

class PlainLlama {
 public:
  PlainLlama(const llama::LlamaConfig& config, llama::Index sequence)
      : config_(config),
        embedding_("model.embed_tokens.weight", config.vocabulary, config.hidden),
        final_norm_("model.norm.weight", 1, config.hidden),
        head_("lm_head.weight", config.vocabulary, config.hidden) {
    const llama::ops::BranchMemory memory{saved_, workspace_};
    const auto rope = std::make_shared<const llama::ops::RopeTable<float>>(
        sequence, config.head_size(), config.rope_theta);
    parameters_.push_back(&embedding_);
    for (llama::Index i = 0; i < config.layers; ++i) {
      const std::string prefix = "model.layers." + std::to_string(i) + ".";
      Block& block = blocks_.emplace_back(Block{Attention({.hidden = config.hidden,
                                                           .heads = config.heads,
                                                           .kv_heads = config.kv_heads,
                                                           .norm_eps = config.norm_epsilon},
                                                          rope, memory, prefix),
                                                Mlp({.hidden = config.hidden,
                                                     .intermediate = config.intermediate,
                                                     .norm_eps = config.norm_epsilon},
                                                    memory, prefix),
                                                {},
                                                {}});
      const auto add = [&](llama::ops::Parameter<float>& parameter) {
        parameters_.push_back(&parameter);
      };
      block.attention.for_each_parameter(add);
      block.mlp.for_each_parameter(add);
    }
    parameters_.push_back(&final_norm_);
    parameters_.push_back(&head_);
  }

  /// In the order of LlamaModel's parameters, without tied embeddings.
  const std::vector<llama::ops::Parameter<float>*>& parameters() const noexcept {
    return parameters_;
  }

  double loss_and_gradients(const llama::Batch& batch) {
    Stream stream(batch.shape.tokens(), config_.hidden, workspace_);
    llama::ops::embedding_forward(stream.view(), batch.inputs, embedding_);
    for (Block& block : blocks_) {
      block.attention.forward_residual(stream, &block.attention_saved.emplace(), batch.shape);
      block.mlp.forward_residual(stream, &block.mlp_saved.emplace(), batch.shape);
    }
    Stream hidden(stream.rows(), stream.columns(), workspace_), rstd(1, stream.rows(), workspace_);
    llama::ops::rms_norm_forward(hidden.view(), rstd.data(), stream.view(),
                                 final_norm_.value().data, config_.norm_epsilon);
    const double loss =
        cross_entropy_.loss_and_gradient(hidden.view(), hidden.view(), head_, batch.labels);
    Stream grad(stream.rows(), stream.columns(), workspace_);
    llama::ops::rms_norm_backward(grad.view(), llama::ops::Accumulate::overwrite, hidden.view(),
                                  stream.view(), final_norm_, rstd.data(), workspace_);
    for (std::size_t i = blocks_.size(); i-- > 0;) {
      Block& block = blocks_[i];
      block.mlp.backward_residual(grad, *block.mlp_saved, batch.shape);
      block.mlp_saved.reset();
      block.attention.backward_residual(grad, *block.attention_saved, batch.shape);
      block.attention_saved.reset();
    }
    llama::ops::embedding_backward(grad.view(), batch.inputs, embedding_);
    return loss;
  }

 private:
  using Stream = llama::ops::Matrix<float>;
  using Attention = llama::ops::AttentionBranch<float>;
  using Mlp = llama::ops::SwiGLUBranch<float>;
  struct Block {
    Attention attention;
    Mlp mlp;
    std::optional<Attention::Saved> attention_saved;
    std::optional<Mlp::Saved> mlp_saved;
  };

  llama::LlamaConfig config_;
  llama::ops::MemoryPool saved_, workspace_;
  llama::ops::CrossEntropy<float> cross_entropy_{workspace_};
  llama::ops::Parameter<float> embedding_, final_norm_, head_;
  std::deque<Block> blocks_;
  std::vector<llama::ops::Parameter<float>*> parameters_;
};

}  // namespace bench
