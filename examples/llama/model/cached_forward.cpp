// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "llama/model/cached_forward.hpp"

#include <stdexcept>

#include <fmt/format.h>

namespace llama {
namespace {

void require_ids(std::span<const std::int32_t> ids, Index before, Index most, Index vocabulary) {
  const Index count = static_cast<Index>(ids.size());
  if (count == 0 || count > most - before)
    throw std::invalid_argument(
        fmt::format("a forward pass needs from 1 to {} tokens after the {} before, but {} were "
                    "given; make the model for longer sequences",
                    most - before, before, count));
  for (const std::int32_t id : ids)
    if (id < 0 || id >= vocabulary)
      throw std::invalid_argument(fmt::format(
          "ids must be below the model's vocabulary, {}, but {} was given; use its own tokenizer",
          vocabulary, id));
}

}  // namespace

template <class T>
CachedForward<T>::CachedForward(LlamaModel<T>& model, Index most_tokens)
    : model_(model), most_tokens_(most_tokens) {
  if (most_tokens < 1 || most_tokens > model.max_sequence())
    throw std::invalid_argument(
        fmt::format("a cache must be for 1 to {} tokens, as many as the model was made for, but {} "
                    "were asked for; make the model for longer sequences",
                    model.max_sequence(), most_tokens));
  for (std::size_t i = 0; i < model.blocks_.size(); ++i)
    caches_.emplace_back(most_tokens,
                         model.blocks_[i].attention.op().config().layout().qkv_width());
}

template <class T>
std::span<const float> CachedForward<T>::next(std::span<const std::int32_t> ids) {
  require_ids(ids, tokens_, most_tokens_, model_.config().vocabulary);
  model_.set_micro_step({.training = false});
  const ops::SequenceShape shape{1, static_cast<Index>(ids.size())};
  typename LlamaModel<T>::Tensor stream = model_.embedded(ids);
  for (std::size_t i = 0; i < model_.blocks_.size(); ++i) {
    model_.blocks_[i].attention.op().forward_cached(stream, caches_[i], tokens_);
    model_.blocks_[i].mlp.op().forward_residual(stream, nullptr, shape);
  }
  tokens_ += shape.sequence;
  model_.last_logits(stream, logits_);
  return logits_;
}

template <class T, class Backend>
std::span<const float> WholeForward<T, Backend>::next(std::span<const std::int32_t> ids) {
  const Index before = static_cast<Index>(ids_.size());
  require_ids(ids, before, model_.max_sequence(), model_.config().vocabulary);
  model_.set_micro_step({.training = false});
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  const ops::SequenceShape shape{1, static_cast<Index>(ids_.size())};
  typename LlamaModel<T, Backend>::Tensor stream = model_.embedded(ids_);
  for (auto& block : model_.blocks_) {
    block.attention.op().forward_residual(stream, nullptr, shape);
    block.mlp.op().forward_residual(stream, nullptr, shape);
  }
  model_.last_logits(stream, logits_);
  return logits_;
}

template class CachedForward<float>;
template class CachedForward<double>;
template class CachedForward<dropbp::BFloat16>;
template class WholeForward<double, dropbp::Cpu>;
#define DROPBP_LLAMA_INSTANTIATE(T, Backend) template class WholeForward<T, Backend>;
DROPBP_LLAMA_FOR_TRAINED(DROPBP_LLAMA_INSTANTIATE)
#undef DROPBP_LLAMA_INSTANTIATE

}  // namespace llama
