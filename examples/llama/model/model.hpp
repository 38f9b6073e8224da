// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A LLaMA-style language model of residual branches whose backward passes can be dropped.
#pragma once

#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <dropbp/dropbp.hpp>
#include <dropbp/ops/attention_branch.hpp>
#include <dropbp/ops/cross_entropy.hpp>
#include <dropbp/ops/elementwise.hpp>
#include <dropbp/ops/embedding.hpp>
#include <dropbp/ops/norm.hpp>
#include <dropbp/ops/parameter.hpp>
#include <dropbp/ops/recompute.hpp>
#include <dropbp/ops/swiglu_branch.hpp>
#if defined(DROPBP_LLAMA_CUDA)
#include <dropbp/kernels/cuda.hpp>
#endif

/// X(T, Backend) for each scalar and backend that llama-finetune can train with.
#if defined(DROPBP_LLAMA_CUDA)
#define DROPBP_LLAMA_FOR_TRAINED(X) \
  X(float, dropbp::Cpu)             \
  X(dropbp::BFloat16, dropbp::Cpu)  \
  X(float, dropbp::Cuda)            \
  X(dropbp::BFloat16, dropbp::Cuda)
#else
#define DROPBP_LLAMA_FOR_TRAINED(X) \
  X(float, dropbp::Cpu)             \
  X(dropbp::BFloat16, dropbp::Cpu)
#endif

#include "llama/formats/config.hpp"
#include "llama/formats/model_folder.hpp"
#include "llama/model/batch.hpp"

namespace llama {

using ops::Index;

/// Where the time of one or more passes went, in seconds.
struct PassTimes {
  double forward = 0.0;
  double backward = 0.0;
  double branches_backward = 0.0;  ///< the part of `backward` that dropping branches can save
  double optimizer = 0.0;
  double other = 0.0;  ///< batches, plans, norms
};

/// Measures them on the backend itself: a mark does not wait for it.
template <class Backend>
class PassMarks {
 public:
  /// The time since the last mark went where `times` adds it.
  void mark(std::initializer_list<double PassTimes::*> times) {
    marks_.push_back({Moment(), {times.begin(), times.end()}});
  }
  /// Waits for the last mark.
  PassTimes times() const {
    PassTimes sums;
    const Moment* last = &start_;
    for (const Mark& mark : marks_) {
      const double seconds = mark.at.seconds_since(*last);
      for (double PassTimes::* const time : mark.times) sums.*time += seconds;
      last = &mark.at;
    }
    return sums;
  }
  /// Until the last mark, for which it waits.
  double seconds() const { return marks_.empty() ? 0.0 : marks_.back().at.seconds_since(start_); }

 private:
  using Moment = typename dropbp::device_runtime<Backend>::Moment;
  struct Mark {
    Moment at;
    std::vector<double PassTimes::*> times;
  };
  Moment start_;
  std::vector<Mark> marks_;
};

/// Hears how far a pass has come, for work that goes on beside it.
struct PassObserver {
  /// The forward pass has run, and the gradients of what is above the branches are complete.
  std::function<void(double loss)> loss_known;
  /// So are those of this branch and of all above it, where it was kept.
  std::function<void(std::size_t branch)> passed;
};

class Stopwatch {
 public:
  /// Adds the seconds since construction, or since the last call, to `total`.
  void add_to(double& total) {
    const auto now = std::chrono::steady_clock::now();
    total += std::chrono::duration<double>(now - start_).count();
    start_ = now;
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// Settings of a model besides its config.
struct ModelOptions {
  ops::LoraConfig lora = {};                    ///< `micro_step` is set by the model
  bool recompute = false;                       ///< branches save only their input
  bool any_order = false;                       ///< of attention's sums, see ops::HeadLayout
  ops::PoolFill fill = ops::PoolFill::nothing;  ///< poisons fresh memory in tests
};

/// The model: embedding, `layers` blocks of an attention and a gated MLP branch, final norm, output
/// layer, as the traits of its family say. T is float or double, or on a device also BFloat16. All
/// weights are trained or, with adapters, only these and what LoraConfig::modules_to_save names.
/// Parameters have their Hugging Face names, adapters "X.lora_A.weight" and "X.lora_B.weight" for
/// the weight "X.weight".
template <class T, class Backend = dropbp::Cpu>
class LlamaModel {
 public:
  using Tensor = ops::Matrix<T, Backend>;
  using Parameter = ops::Parameter<T, Backend>;
  using Slice = ops::ParameterSlice<T, Backend>;
  using Projection = ops::Projection<T, Backend>;
  using Attention =
      dropbp::DropBPLayer<ops::Recompute<ops::AttentionBranch<T, Backend>, T, Backend>>;
  using Mlp = dropbp::DropBPLayer<ops::Recompute<ops::SwiGLUBranch<T, Backend>, T, Backend>>;
  struct Block {
    Attention attention;
    Mlp mlp;
  };

  /// For sequences of up to `max_sequence` tokens. Weights are not initialised: call initialize()
  /// or load_weights(), and initialize_adapters() or load_adapter(). Throws std::invalid_argument
  /// for an impossible config or LoRA settings, and for a trait without a kernel on this backend.
  explicit LlamaModel(const LlamaConfig& config, Index max_sequence, ModelOptions options = {});

  LlamaModel(const LlamaModel&) = delete;
  LlamaModel& operator=(const LlamaModel&) = delete;

  // ---- what DropBPHandler walks

  void for_each_layer(auto&& visit) {
    for (Block& block : blocks_) {
      visit(block.attention);
      visit(block.mlp);
    }
  }

  void for_each_gradient(auto&& visit) {
    for_each_tensor([&](const Slice& tensor) {
      if (!tensor.trained) return;
      const ops::Elements<T, Backend> gradient(tensor.gradient,
                                               tensor.gradient == nullptr ? 0 : tensor.size());
      visit(tensor.gradient == nullptr ? nullptr : &gradient);
    });
  }

  // ---- parameters

  /// visit(const Slice&) for every tensor, adapters included, from the embedding upwards. Quantised
  /// weights are not visited.
  void for_each_tensor(auto&& visit) {
    for (Parameter* parameter : parameters_) parameter->for_each_slice(visit);
  }
  const std::vector<Parameter*>& parameters() const noexcept { return parameters_; }
  const LlamaConfig& config() const noexcept { return config_; }
  const ops::LoraConfig& lora() const noexcept { return lora_; }
  /// Whether anything below the branches is trainable: the embedding is, unless it is frozen
  /// beside adapters.
  bool trainable_below() const noexcept { return embedding_.trained; }
  /// Whether anything above the branches is trainable: the final norm or the output layer.
  bool trainable_above() const noexcept {
    return final_norm_.trained || (config_.tie_embeddings ? embedding_ : head_).trained;
  }

  /// A weight of the checkpoint format, without adapters. The model may keep it quantised.
  struct BaseWeight {
    const std::string& name;
    Index rows, columns;
    T* value;                ///< null if the model keeps it quantised
    Projection* projection;  ///< the projection that it is part of, or null
    std::size_t part;        ///< of the projection

    /// Sets its values [rows, columns], quantising them if the model does.
    void set(ops::MatrixView<const float> values) const {
      if (value != nullptr)
        ops::upload(ops::MatrixView<T, Backend>(value, rows, columns), values);
      else
        projection->set_weight(part, values);
    }
  };
  /// visit(const BaseWeight&) for every weight, from the embedding upwards.
  void for_each_weight(auto&& visit) {
    const auto visit_parameter = [&](Parameter& parameter) {
      parameter.for_each_slice([&](const Slice& tensor) {
        visit(BaseWeight{tensor.name, tensor.rows, tensor.columns, tensor.value, nullptr, 0});
      });
    };
    const auto visit_branch = [&](auto& branch) {
      branch.for_each_norm(visit_parameter);
      branch.for_each_projection([&](Projection& projection) {
        for (std::size_t part = 0; part < projection.parts().size(); ++part)
          visit(BaseWeight{projection.parts()[part].name, projection.parts()[part].rows,
                           projection.input(), projection.weight_of(part), &projection, part});
        visit_parameter(projection.bias);
      });
    };
    visit_parameter(embedding_);
    for (Block& block : blocks_) visit_branch(block.attention.op()), visit_branch(block.mlp.op());
    visit_parameter(final_norm_);
    if (!config_.tie_embeddings) visit_parameter(head_);
  }

  /// Normal weights of standard deviation 0.02, divided by sqrt(2 * layers) for the two projections
  /// that write into the residual stream, as in GPT-2; norms are 1. A pure function of `seed`.
  void initialize(std::uint64_t seed);

  /// As in PEFT: A is uniform in +-1 / sqrt(inputs), B is zero and magnitudes are the weights'
  /// norms, so that the initial model equals its base. A pure function of `seed`.
  void initialize_adapters(std::uint64_t seed);

  /// Sets the micro-step of the next passes, from which the adapters' dropout is drawn.
  void set_micro_step(const ops::MicroStepId& id) noexcept { *micro_step_ = id; }

  /// CRC-32C of the weights as they were loaded or initialised, before quantisation; 0 if the
  /// weights are trained.
  std::uint32_t base_checksum() const noexcept { return base_checksum_; }

  /// Bytes of all weights in memory, without adapters.
  std::size_t base_bytes();

  /// Sets the cost of every layer: its branch's FLOPs per token at this sequence length.
  void set_flops(Index sequence);

  /// Relative cost of a kept branch's backward pass. With trained weights it is the branch's cost.
  /// With frozen weights only gradients of activations are counted (the adapters' own products,
  /// below a tenth, are left out). If the gradient of the branch's input is not needed, the lowest
  /// product is not counted, or nothing is if no adapter uses its output's gradient.
  double backward_flops(std::size_t branch, bool input_gradient_needed) const;

  /// Makes every gradient absent, for the start of an optimizer step.
  void clear_gradients() {
    for (Parameter* parameter : parameters_) parameter->drop_gradient();
  }

  // ---- passes

  /// Returns the mean cross-entropy of the batch in nats per token, or its share of the step's
  /// mean, and adds its gradients to those of the parameters. Call clear_gradients() before the
  /// first micro-step. Adds to `times`. Waits for the loss, and for the times if they are wanted.
  double loss_and_gradients(const Batch& batch, PassTimes* times = nullptr);

  /// The same; on a device the loss stays there until it is read, and nothing waits before.
  /// `observer` waits for the loss.
  dropbp::DeferredNumber deferred_loss_and_gradients(const Batch& batch,
                                                     PassMarks<Backend>* marks = nullptr,
                                                     const PassObserver* observer = nullptr);

  /// The loss without gradients. The handler must be in an evaluation, otherwise branches save
  /// activations that are never released.
  double loss(const Batch& batch) { return deferred_loss(batch).value(); }
  /// The same; on a device it stays there until it is read.
  dropbp::DeferredNumber deferred_loss(const Batch& batch);

  /// Tokens of the longest sequence that it was made for.
  Index max_sequence() const noexcept { return max_sequence_; }

  /// Bytes that a kept branch keeps between forward and backward.
  std::size_t saved_bytes(std::size_t branch, Index tokens) const;

  /// Memory of the activations that branches save for their backward pass, and of temporaries
  /// within a pass.
  ops::BasicMemoryPool<Backend>& saved_memory() noexcept { return saved_; }
  ops::BasicMemoryPool<Backend>& workspace() noexcept { return workspace_; }

 private:
  template <class, class>
  friend class BranchwisePass;
  template <class>
  friend class CachedForward;
  template <class, class>
  friend class WholeForward;
  template <class U, class B>
  friend void load_weights(const std::filesystem::path& folder, LlamaModel<U, B>& model);

  Tensor forward(const Batch& batch);
  /// What the first block gets.
  Tensor embedded(std::span<const std::int32_t> ids);
  void backward_embedding(Tensor& grad, const Batch& batch);
  /// The logits of the last row of what the last block gives.
  void last_logits(const Tensor& stream, std::vector<float>& logits);

  // Forward pass, loss, and the backward pass down to the highest branch's output.
  Tensor top_gradient(const Batch& batch, PassMarks<Backend>* marks);
  Parameter& head() noexcept { return config_.tie_embeddings ? embedding_ : head_; }

  LlamaConfig config_;
  Index max_sequence_;
  std::shared_ptr<ops::MicroStepId> micro_step_ = std::make_shared<ops::MicroStepId>();
  ops::LoraConfig lora_;
  ops::BasicMemoryPool<Backend> saved_;
  ops::BasicMemoryPool<Backend> workspace_;
  ops::CrossEntropy<T, Backend> cross_entropy_;
  Parameter embedding_;
  ops::Norm<T, Backend> final_norm_;
  Parameter head_;
  std::deque<Block> blocks_;
  std::vector<Parameter*> parameters_;
  double embedding_scale_ = 1.0;
  std::uint32_t base_checksum_ = 0;
};

/// The passes of DropBPHandler::measure_sensitivities_branchwise on one batch. Both must outlive
/// it.
template <class T, class Backend = dropbp::Cpu>
class BranchwisePass {
 public:
  using Tensor = ops::Matrix<T, Backend>;

  BranchwisePass(LlamaModel<T, Backend>& model, const Batch& batch)
      : model_(model), batch_(batch) {}

  Tensor forward();
  Tensor backward(std::size_t branch, const Tensor& grad_output);
  void backward_below(const Tensor& grad);
  void clear_gradients(std::size_t branches);

 private:
  LlamaModel<T, Backend>& model_;
  const Batch& batch_;
  Tensor heads_share_;  // the output layer's share of the embedding's gradient, if they are tied
};

/// Fills the model's weights from a checkpoint folder. If the model quantises, it does so one
/// weight at a time, so only one is in memory besides the model. Adapters are unchanged. See
/// load_folder for the errors.
template <class T, class Backend>
void load_weights(const std::filesystem::path& folder, LlamaModel<T, Backend>& model);

/// The shape of a weight in a checkpoint: norms and biases have one dimension, as in Hugging
/// Face's.
[[nodiscard]] inline std::vector<std::ptrdiff_t> checkpoint_shape(std::string_view name, Index rows,
                                                                  Index columns) {
  if (name.ends_with("norm.weight")) return {columns};
  if (name.ends_with(".bias") || name.ends_with(".lora_magnitude_vector")) return {rows};
  return {rows, columns};
}

/// The weights as they are saved: adapters merged, made one at a time where they are not kept as
/// such. The model must outlive them.
template <class T, class Backend>
[[nodiscard]] std::vector<NamedTensor> merged_tensors(LlamaModel<T, Backend>& model);

/// Writes the model as a checkpoint folder in F32, F16 or BF16, adapters merged into the weights;
/// see save_model_folder.
template <class T, class Backend>
void save_weights(const std::filesystem::path& folder, LlamaModel<T, Backend>& model,
                  DType dtype = DType::f32, std::uint64_t shard_bytes = default_shard_bytes,
                  const Companions& companions = {});

extern template class LlamaModel<float>;
extern template class LlamaModel<double>;
extern template class BranchwisePass<float>;
extern template class BranchwisePass<double>;

}  // namespace llama
