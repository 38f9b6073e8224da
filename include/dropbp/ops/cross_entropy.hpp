// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The cross-entropy of a language model's head, computed in chunks of tokens: at most [chunk,
// vocabulary] logits exist at a time. Its mean may be over the tokens of several calls.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "dropbp/kernels/cpu/cross_entropy.hpp"
#include "dropbp/kernels/cpu/embedding.hpp"
#include "dropbp/ops/elementwise.hpp"
#include "dropbp/ops/gemm.hpp"
#include "dropbp/ops/ids.hpp"
#include "dropbp/ops/parameter.hpp"
#include "dropbp/ops/softcap.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// losses [rows] = the cross-entropy of each row of logits [rows, vocabulary]; 0 where the target
/// is `ignored`. With `keep`, replaces the logits by the gradient of sum(losses) / divisor.
template <class T, class Backend = Cpu>
void cross_entropy_rows(MatrixView<T, Backend> logits,
                        typename kernels<op::cross_entropy, T, Backend>::Loss* losses,
                        const std::int32_t* targets, std::int32_t ignored, double divisor,
                        bool keep) {
  kernels<op::cross_entropy, T, Backend>::run(logits, losses, targets, ignored, divisor, keep);
}

/// The cross-entropy -log softmax(hidden W^T)[target], averaged over the positions whose target is
/// not ignore_index; 0 if all are ignored. In a training step call begin, then forward_chunk and
/// backward_chunk for each chunk in order, or let loss_and_gradient do so; mean() is then the loss.
/// Chunks and the order of all sums are fixed, so two runs give the same bits.
///
/// On the CPU, tokens whose target is ignore_index cost nothing: a chunk consists of labelled
/// tokens, whose rows are gathered if other tokens stand between them. A device computes all
/// tokens.
///
/// If the gradients of several calls are added (micro-steps, processes), averaging each call by
/// itself would give more weight to tokens of calls with few labelled tokens. Instead pass the
/// number of labelled tokens in the whole step as `divisor`: then the values of mean() add up to
/// the loss of the step, and the gradients add up to the gradient of that loss. If this number is
/// unknown, pass 1, add up counted(), and divide the gradients at the end with AdamW::step(1.0 /
/// total), and the losses likewise.
template <class T, class Backend = Cpu>
class CrossEntropy {
 public:
  using View = MatrixView<T, Backend>;                ///< of outputs
  using ConstView = MatrixView<const T, Backend>;     ///< of inputs
  static constexpr std::int32_t ignore_index = -100;  ///< as in PyTorch

  /// Only the logits of `chunk_tokens` tokens, and a copy of their rows of hidden, exist at a time.
  /// With a `softcap` above 0 the logits are capped, see softcap.hpp. Throws std::invalid_argument
  /// if chunk_tokens is less than 1.
  explicit CrossEntropy(BasicMemoryPool<Backend> workspace, Index chunk_tokens = 1024,
                        double softcap = 0.0)
      : workspace_(std::move(workspace)), chunk_tokens_(chunk_tokens), softcap_(softcap) {
    if (chunk_tokens < 1)
      detail::throw_invalid("a chunk needs at least 1 token",
                            std::to_string(chunk_tokens) + " was given", "use the default of 1024");
  }

  /// Tokens of a chunk for a vocabulary: 1024, and fewer from 65,536 on, so that the logits take
  /// 256 MiB of floats, but at least 256, so that the products stay efficient.
  static constexpr Index chunk_tokens_for(Index vocabulary) noexcept {
    constexpr Index largest = 1024, least = 256, logits = (Index{256} << 20) / 4;
    if (vocabulary <= logits / largest) return largest;
    return vocabulary >= logits / least ? least : logits / vocabulary;
  }

  /// Starts a loss over `targets`, which are ids in [0, vocabulary) or ignore_index and must stay
  /// alive until the last chunk. The loss is the sum over the labelled positions divided by
  /// `divisor`; without a divisor, by their number. Throws std::invalid_argument for an id outside
  /// the vocabulary, and for a divisor that is not finite and positive while a position is
  /// labelled.
  void begin(std::span<const std::int32_t> targets, Index vocabulary,
             std::optional<double> divisor = std::nullopt) {
    std::size_t counted = 0;
    for (std::size_t t = 0; t < targets.size(); ++t) {
      if (targets[t] == ignore_index) continue;
      if (targets[t] < 0 || targets[t] >= vocabulary)
        detail::throw_invalid(
            "targets must lie in [0, " + std::to_string(vocabulary) + ") or be " +
                std::to_string(ignore_index),
            "id " + std::to_string(targets[t]) + " stands at position " + std::to_string(t),
            "check the tokenizer against the model's vocabulary");
      ++counted;
    }
    if (divisor && counted > 0 && !(*divisor > 0 && dropbp::detail::is_finite(*divisor)))
      detail::throw_invalid("the divisor of a loss must be finite and above 0",
                            dropbp::detail::text(*divisor) + " was given",
                            "pass the number of labelled tokens in all micro-steps of the step, or "
                            "1 for the sum");
    if (losses_.size() != targets.size())
      losses_ = Matrix<Loss, Backend>(1, static_cast<Index>(targets.size()));
    targets_ = targets.size();
    counted_ = counted;
    choose_rows(targets);
    divisor_ = divisor.value_or(static_cast<double>(counted));
    seen_ = 0;
    kept_chunk_ = -1;
  }

  /// Number of chunks of the targets; at least 1 if there are targets.
  Index chunks() const noexcept { return static_cast<Index>(starts_.size()) - 1; }

  /// Computes the losses of one chunk of hidden [tokens, hidden] with weight [vocabulary, hidden].
  /// With `keep`, the gradient of the logits replaces the logits and stays for backward_chunk.
  void forward_chunk(Index chunk, ConstView hidden, const Parameter<T, Backend>& weight,
                     bool keep) {
    require_shapes(hidden, weight);
    if (chunk < 0 || chunk >= chunks())
      detail::throw_invalid("a chunk must lie in [0, " + std::to_string(chunks()) + ")",
                            std::to_string(chunk) + " was given", "call chunks() after begin()");
    const Chunk part = chunk_at(chunk);
    ConstView rows = hidden.rows_from(part.row, part.rows);
    if constexpr (gathers)
      if (part.gaps()) {
        gathered_ = Matrix<T, Backend>(part.count, hidden.columns, workspace_);
        kernels<op::embedding, T, Backend>::forward(gathered_.view(), places_of(part), rows);
        rows = gathered_.view();
      }
    logits_ = Matrix<T, Backend>(part.count, weight.rows(), workspace_);
    gemm_nt(logits_.view(), rows, weight.value());
    Matrix<T, Backend> capped;
    if (softcap_ > 0.0) {
      softcap_forward(logits_.view(), softcap_);
      if (keep) {
        capped = Matrix<T, Backend>(part.count, weight.rows(), workspace_);
        copy<T>(capped.view(), logits_.view());
      }
    }
    cross_entropy_rows(logits_.view(), losses_.data() + part.first, ids_.data() + part.first,
                       ignore_index, divisor_, keep);
    if (softcap_ > 0.0 && keep) softcap_backward(logits_.view(), capped.view(), softcap_);
    seen_ = (std::max)(seen_, part.first + part.count);
    kept_chunk_ = keep ? chunk : -1;
    if (!keep) release();
  }

  /// Writes the chunk's rows of grad_hidden [tokens, hidden], which may be hidden itself, and
  /// computes the gradient of a trained weight. A chunk's rows end where those of the next chunk
  /// begin; the rows of ignored tokens become 0. Throws std::logic_error unless the last
  /// forward_chunk was for the same chunk with `keep`.
  void backward_chunk(Index chunk, View grad_hidden, ConstView hidden,
                      Parameter<T, Backend>& weight) {
    if (kept_chunk_ != chunk)
      dropbp::detail::throw_order(
          "backward_chunk needs the logits of chunk " + std::to_string(chunk),
          kept_chunk_ < 0 ? "none are kept"
                          : "those of chunk " + std::to_string(kept_chunk_) + " are kept",
          "call forward_chunk of the same chunk with keep = true before");
    require_shapes(hidden, weight);
    require_shapes(grad_hidden, weight);
    const Chunk part = chunk_at(chunk);
    const View grad_rows = grad_hidden.rows_from(part.row, part.rows);
    if (weight.trained) {
      const Accumulate mode = weight.begin_gradient();
      gemm_tn(weight.gradient(), logits_.view(),
              part.gaps() ? gathered_.view() : hidden.rows_from(part.row, part.rows), mode);
    }
    gemm_nn(part.gaps() ? gathered_.view() : grad_rows, logits_.view(), weight.value());
    if constexpr (gathers)
      if (part.gaps())
        kernels<op::embedding, T, Backend>::backward(grad_rows, Accumulate::overwrite,
                                                     gathered_.view(), places_of(part));
    release();
    kept_chunk_ = -1;
  }

  /// Number of targets of begin() that are not ignore_index.
  std::size_t counted() const noexcept { return counted_; }

  /// sum() / divisor; 0 if all targets are ignored.
  double mean() const { return counted_ == 0 ? 0.0 : sum() / divisor_; }

  /// The same; on a device it stays there until it is read.
  DeferredNumber deferred_mean() const {
    return counted_ == 0 ? DeferredNumber() : deferred_sum().divided_by(divisor_);
  }

  /// The sum of the losses of all chunks since begin(). Waits for their computation.
  double sum() const { return deferred_sum().value(); }

  /// The same; on a device it stays there until it is read.
  DeferredNumber deferred_sum() const {
    const auto count = static_cast<std::size_t>(seen_);
    if constexpr (DeviceBackend<Backend>) {
      return kernels<op::cross_entropy, T, Backend>::sum(losses_.data(), count);
    } else {
      double sum = 0;
      for (std::size_t i = 0; i < count; ++i) sum += losses_.data()[i];
      return sum;
    }
  }

  /// The loss without gradients; `divisor` as in begin().
  double loss(ConstView hidden, const Parameter<T, Backend>& weight,
              std::span<const std::int32_t> targets, std::optional<double> divisor = std::nullopt) {
    return deferred_loss(hidden, weight, targets, divisor).value();
  }
  /// The same; on a device it stays there until it is read.
  DeferredNumber deferred_loss(ConstView hidden, const Parameter<T, Backend>& weight,
                               std::span<const std::int32_t> targets,
                               std::optional<double> divisor = std::nullopt) {
    begin(targets, weight.rows(), divisor);
    for (Index chunk = 0; chunk < chunks(); ++chunk) forward_chunk(chunk, hidden, weight, false);
    return deferred_mean();
  }

  /// The loss and its gradients. Writes the gradient of hidden to grad_hidden, which may be hidden
  /// itself, and computes the gradient of a trained weight; `divisor` as in begin().
  double loss_and_gradient(View grad_hidden, ConstView hidden, Parameter<T, Backend>& weight,
                           std::span<const std::int32_t> targets,
                           std::optional<double> divisor = std::nullopt) {
    begin(targets, weight.rows(), divisor);
    for (Index chunk = 0; chunk < chunks(); ++chunk) {
      forward_chunk(chunk, hidden, weight, true);
      backward_chunk(chunk, grad_hidden, hidden, weight);
    }
    return mean();
  }

 private:
  static constexpr bool gathers = !DeviceBackend<Backend>;

  // The computed tokens [first, first + count) of a chunk lie among the rows [row, row + rows) of
  // hidden.
  struct Chunk {
    Index first, count, row, rows;
    bool gaps() const noexcept { return count < rows; }
  };
  Chunk chunk_at(Index chunk) const noexcept {
    const Index first = chunk * chunk_tokens_, row = starts_[static_cast<std::size_t>(chunk)];
    return {first, (std::min)(chunk_tokens_, computed_ - first), row,
            starts_[static_cast<std::size_t>(chunk) + 1] - row};
  }
  std::span<const std::int32_t> places_of(const Chunk& part) const noexcept {
    return std::span(places_).subspan(static_cast<std::size_t>(part.first),
                                      static_cast<std::size_t>(part.count));
  }

  // Divides the tokens to compute into chunks.
  void choose_rows(std::span<const std::int32_t> targets) {
    const auto rows = static_cast<Index>(targets.size());
    starts_.assign(1, 0);
    computed_ = 0;
    if constexpr (gathers) {
      labels_.clear(), places_.clear();
      for (Index row = 0; row < rows; ++row) {
        const std::int32_t target = targets[static_cast<std::size_t>(row)];
        if (target == ignore_index) continue;
        if (computed_ > 0 && computed_ % chunk_tokens_ == 0) starts_.push_back(row);
        labels_.push_back(target);
        places_.push_back(static_cast<std::int32_t>(row - starts_.back()));
        ++computed_;
      }
      ids_.assign(labels_);
    } else {
      computed_ = rows;
      for (Index row = chunk_tokens_; row < rows; row += chunk_tokens_) starts_.push_back(row);
      ids_.assign(targets);
    }
    if (rows > 0) starts_.push_back(rows);
  }

  void release() noexcept {
    logits_ = Matrix<T, Backend>();
    gathered_ = Matrix<T, Backend>();
  }

  void require_shapes(ConstView hidden, const Parameter<T, Backend>& weight) const {
    if (hidden.rows != static_cast<Index>(targets_) || hidden.columns != weight.columns())
      detail::throw_invalid(
          "hidden and its gradient must have one row per target and the head's columns " +
              detail::shape_text(static_cast<Index>(targets_), weight.columns()),
          detail::shape_text(hidden.rows, hidden.columns) + " was given",
          "pass the output of the last norm for all tokens");
  }

  using Loss = typename kernels<op::cross_entropy, T, Backend>::Loss;

  BasicMemoryPool<Backend> workspace_;
  Index chunk_tokens_;
  double softcap_;                // of the logits; 0: none
  Ids<Backend> ids_;              // the targets of the computed tokens
  std::vector<Index> starts_{0};  // first row of hidden of each chunk; ends with all rows
  Index computed_ = 0;            // tokens whose logits are computed: on the CPU the labelled ones
  std::vector<std::int32_t> labels_;  // on the CPU: the targets of the computed tokens,
  std::vector<std::int32_t> places_;  // and their rows, from the first row of their chunk
  std::size_t targets_ = 0;           // number of targets
  std::size_t counted_ = 0;           // number of targets that are not ignored
  double divisor_ = 0;                // divides the sum of the losses
  Matrix<Loss, Backend> losses_;      // one per target
  Index seen_ = 0;                    // number of losses computed since begin
  Matrix<T, Backend> gathered_;       // rows of hidden of a chunk with gaps
  Matrix<T, Backend> logits_;         // gradients of the logits of kept_chunk_
  Index kept_chunk_ = -1;             // -1: none
};

}  // namespace ops
DROPBP_NAMESPACE_END
