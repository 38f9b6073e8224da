// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "llama/model/model.hpp"

#include <algorithm>
#include <numbers>
#include <stdexcept>
#include <string_view>
#include <type_traits>
#include <utility>

#include <fmt/format.h>

#include "llama/formats/crc32c.hpp"
#include "llama/model/branches.hpp"
#include "llama/model/random_streams.hpp"

namespace llama {
namespace {

template <class T, class Backend>
const LlamaConfig& checked(const LlamaConfig& config, Index max_sequence) {
  validate(config);
  if constexpr (dropbp::DeviceBackend<Backend> || !std::is_floating_point_v<T>)
    refuse_without_kernel(config, max_sequence, dropbp::DeviceBackend<Backend>);
  return config;
}

// In [0, 1).
double uniform(std::uint64_t bits) { return static_cast<double>(bits >> 11) * 0x1p-53; }

template <class Backend>
void mark(PassMarks<Backend>* marks, std::initializer_list<double PassTimes::*> times) {
  if (marks != nullptr) marks->mark(times);
}

// Whether the model's memory holds numbers that the host computes with; else they are converted or
// copied.
template <class T, class Backend>
inline constexpr bool numbers_in_place =
    std::is_floating_point_v<T> && !dropbp::DeviceBackend<Backend>;

// Two draws make two normal numbers (Box and Muller 1958).
template <class T>
void fill_normal(std::span<T> values, double deviation, const dropbp::CounterRandom& random) {
  for (std::size_t i = 0; i < values.size(); i += 2) {
    const auto bits = random.pair(static_cast<std::uint32_t>(i / 2));
    const double radius = std::sqrt(-2.0 * std::log(uniform(bits[0]) + 0x1p-53));
    const double angle = 2.0 * std::numbers::pi * uniform(bits[1]);
    values[i] = static_cast<T>(deviation * radius * std::cos(angle));
    if (i + 1 < values.size()) values[i + 1] = static_cast<T>(deviation * radius * std::sin(angle));
  }
}

// Checksum of the values as floats, independent of T.
template <class T>
std::uint32_t checksum_of(std::span<const T> values) {
  if constexpr (std::is_same_v<T, float>) {
    return crc32c(0, values.data(), values.size_bytes());
  } else {
    std::uint32_t checksum = 0;
    for (const T value : values) {
      const auto narrow = static_cast<float>(value);
      checksum = crc32c(checksum, &narrow, sizeof narrow);
    }
    return checksum;
  }
}

// One checksum of all weights, in their order.
std::uint32_t joined(const std::vector<std::uint32_t>& checksums) {
  return crc32c(0, checksums.data(), checksums.size() * sizeof(std::uint32_t));
}

bool in_linear_map(std::string_view name) {
  return std::ranges::any_of(ops::adaptable_linears, [&](std::string_view linear) {
    return name.find(fmt::format(".{}.", linear)) != name.npos;
  });
}

// Each of the names must be the end of a module's name, and of no linear map's.
void require_saved_modules(const std::vector<std::string>& names, const auto& parameters) {
  for (const std::string& name : names) {
    const ops::LoraConfig one{.rank = 1, .modules_to_save = {name}};
    bool found = false, linear = false;
    for (const auto* const parameter : parameters)
      for (const auto& part : parameter->parts()) {
        if (!one.trains(part.name)) continue;
        found = true;
        linear = linear || in_linear_map(part.name);
      }
    found = found || one.trains("lm_head.weight");  // not a parameter where it is tied
    if (found && !linear) continue;
    throw std::invalid_argument(
        fmt::format("modules that are trained whole beside adapters must be among embed_tokens, "
                    "lm_head and the norms of the model, but '{}' names {}; {}",
                    name, found ? "linear maps" : "none of them",
                    found ? "give those adapters" : "leave it out"));
  }
}

}  // namespace

template <class T, class Backend>
LlamaModel<T, Backend>::LlamaModel(const LlamaConfig& config, Index max_sequence,
                                   ModelOptions options)
    : config_(checked<T, Backend>(config, max_sequence)),
      max_sequence_(max_sequence),
      lora_(std::move(options.lora)),
      saved_(options.fill),
      workspace_(options.fill),
      cross_entropy_(workspace_, ops::CrossEntropy<T, Backend>::chunk_tokens_for(config.vocabulary),
                     config.traits.logit_softcap),
      embedding_("model.embed_tokens.weight", config.vocabulary, config.hidden),
      final_norm_("model.norm.weight", config.hidden, config.norm_epsilon,
                  config.traits.norm_offset),
      head_("lm_head.weight", config.tie_embeddings ? 0 : config.vocabulary, config.hidden) {
  lora_.micro_step = micro_step_;
  if (config.traits.scaled_embedding)
    embedding_scale_ = std::sqrt(static_cast<double>(config.hidden));
  // Recomputed activations live within one call.
  const ops::BasicBranchMemory<Backend> memory{options.recompute ? workspace_ : saved_, workspace_};
  const RopeTables<T, Backend> rope(config, max_sequence);
  parameters_.push_back(&embedding_);
  for (Index i = 0; i < config.layers; ++i) {
    const std::string prefix = "model.layers." + std::to_string(i) + ".";
    const auto layer = static_cast<std::size_t>(i);
    ops::AttentionConfig attention = attention_config(config, lora_, layer, max_sequence);
    attention.any_order = options.any_order;
    Block& block = blocks_.emplace_back(
        Block{Attention({ops::AttentionBranch<T, Backend>(
                             attention, rope.of(config.traits.layer(layer)), memory, prefix),
                         saved_, options.recompute}),
              Mlp({ops::SwiGLUBranch<T, Backend>(mlp_config(config, lora_), memory, prefix), saved_,
                   options.recompute})});
    block.attention.op().for_each_parameter(
        [&](Parameter& parameter) { parameters_.push_back(&parameter); });
    block.mlp.op().for_each_parameter(
        [&](Parameter& parameter) { parameters_.push_back(&parameter); });
  }
  parameters_.push_back(&final_norm_);
  if (!config.tie_embeddings) parameters_.push_back(&head_);
  require_saved_modules(lora_.modules_to_save, parameters_);
  for (Parameter* parameter : std::initializer_list<Parameter*>{&embedding_, &final_norm_, &head_})
    parameter->trained = lora_.trains(parameter->parts().front().name);
  // Tied weights are one: whoever trains the output layer trains the embedding.
  if (config.tie_embeddings) embedding_.trained |= lora_.trains("lm_head.weight");
  set_flops(max_sequence);
}

template <class T, class Backend>
void LlamaModel<T, Backend>::initialize(std::uint64_t seed) {
  const double residual = 0.02 / std::sqrt(2.0 * static_cast<double>(config_.layers));
  std::uint64_t index = 0;
  std::vector<float> values;
  std::vector<std::uint32_t> checksums;
  const bool summed = lora_.enabled();
  for_each_weight([&](const BaseWeight& weight) {
    const std::string_view name = weight.name;
    const auto size = static_cast<std::size_t>(weight.rows * weight.columns);
    const auto fill = [&](auto span) {
      if (name.ends_with("norm.weight"))  // multiplies by 1
        return void(std::ranges::fill(span, config_.traits.norm_offset == 0.0 ? 1 : 0));
      if (name.ends_with(".bias")) return void(std::ranges::fill(span, 0));
      const bool feeds_stream =
          name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
      fill_normal(span, feeds_stream ? residual : 0.02,
                  dropbp::CounterRandom(seed, weight_stream, index));
    };
    if constexpr (numbers_in_place<T, Backend>) {
      if (weight.value != nullptr) {
        fill(std::span<T>(weight.value, size));
        if (summed) checksums.push_back(checksum_of(std::span<const T>(weight.value, size)));
      }
    }
    if (weight.value == nullptr || !numbers_in_place<T, Backend>) {
      values.resize(size);
      fill(std::span<float>(values));
      if (summed) checksums.push_back(checksum_of(std::span<const float>(values)));
      weight.set({values.data(), weight.rows, weight.columns});
    }
    ++index;
  });
  base_checksum_ = summed ? joined(checksums) : 0;
}

template <class T, class Backend>
void LlamaModel<T, Backend>::initialize_adapters(std::uint64_t seed) {
  std::uint64_t index = 0;
  std::vector<float> values;
  for_each_tensor([&](const Slice& tensor) {
    const ops::MatrixView<T, Backend> view(tensor.value, tensor.rows, tensor.columns);
    if (tensor.name.ends_with(".lora_B.weight")) ops::set_zero(view);
    if (!tensor.name.ends_with(".lora_A.weight")) return;
    const dropbp::CounterRandom random(seed, adapter_stream, index++);
    const double bound = 1.0 / std::sqrt(static_cast<double>(tensor.columns));
    const auto fill = [&](auto* to) {
      using Element = std::remove_pointer_t<decltype(to)>;
      for (std::size_t i = 0; i < tensor.size(); ++i)
        to[i] = static_cast<Element>(bound * (2.0 * uniform(random(i)) - 1.0));
    };
    if constexpr (numbers_in_place<T, Backend>) {
      fill(tensor.value);
    } else {
      values.resize(tensor.size());
      fill(values.data());
      ops::upload(view, {values.data(), tensor.rows, tensor.columns});
    }
  });
  for_each_layer([](auto& layer) {
    layer.op().for_each_projection([](Projection& projection) { projection.reset_magnitudes(); });
  });
}

template <class T, class Backend>
std::size_t LlamaModel<T, Backend>::base_bytes() {
  std::size_t bytes = (embedding_.size() + final_norm_.size() + head_.size()) * sizeof(T);
  for_each_layer([&](auto& layer) {
    layer.op().for_each_norm([&](const Parameter& norm) { bytes += norm.size() * sizeof(T); });
    layer.op().for_each_projection(
        [&](const Projection& projection) { bytes += projection.base_bytes(); });
  });
  return bytes;
}

template <class T, class Backend>
void LlamaModel<T, Backend>::set_flops(Index sequence) {
  const auto size = [](Index n) { return static_cast<std::size_t>(n); };
  const double mlp = dropbp::swiglu_flops(
      {.hidden = size(config_.hidden), .intermediate = size(config_.intermediate)});
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    blocks_[i].attention.set_cost(attention_flops_of(config_, i, sequence) /
                                  static_cast<double>(sequence));
    blocks_[i].mlp.set_cost(mlp);
  }
}

template <class T, class Backend>
double LlamaModel<T, Backend>::backward_flops(std::size_t branch,
                                              bool input_gradient_needed) const {
  const Block& block = blocks_.at(branch / 2);
  const auto cost = [&](const auto& layer, const Projection& lowest) {
    if (input_gradient_needed || layer.op().norm.trained) return layer.cost();
    Index outputs = 0;
    for (const auto& part : lowest.parts()) outputs += part.rows;
    return lowest.trainable() ? layer.cost() - 2.0 * static_cast<double>(outputs * config_.hidden)
                              : 0.0;
  };
  return branch % 2 == 0 ? cost(block.attention, block.attention.op().qkv)
                         : cost(block.mlp, block.mlp.op().gate_up);
}

template <class T, class Backend>
ops::Matrix<T, Backend> LlamaModel<T, Backend>::embedded(std::span<const std::int32_t> ids) {
  Tensor stream(static_cast<Index>(ids.size()), config_.hidden, workspace_);
  ops::embedding_forward(stream.view(), ids, embedding_);
  if (embedding_scale_ != 1.0) ops::scale(stream.view(), embedding_scale_);
  return stream;
}

template <class T, class Backend>
void LlamaModel<T, Backend>::last_logits(const Tensor& stream, std::vector<float>& logits) {
  const auto last = stream.view().rows_from(stream.rows() - 1, 1);
  Tensor hidden(1, stream.columns(), workspace_), row(1, config_.vocabulary, workspace_);
  ops::Matrix<ops::Statistic<T>, Backend> rstd(1, 1, workspace_);
  final_norm_.forward(hidden.view(), rstd, last, workspace_);
  ops::gemm_nt(row.view(), hidden.view(), head().value());
  if (config_.traits.logit_softcap > 0.0)
    ops::softcap_forward(row.view(), config_.traits.logit_softcap);
  logits.resize(static_cast<std::size_t>(config_.vocabulary));
  ops::download(ops::MatrixView<float>(logits.data(), 1, config_.vocabulary), row.view());
}

template <class T, class Backend>
ops::Matrix<T, Backend> LlamaModel<T, Backend>::forward(const Batch& batch) {
  Tensor stream = embedded(batch.inputs);
  for (Block& block : blocks_) {
    stream = block.attention.forward(std::move(stream), batch.packed_shape());
    stream = block.mlp.forward(std::move(stream), batch.packed_shape());
  }
  return stream;
}

// Scales the gradient in place.
template <class T, class Backend>
void LlamaModel<T, Backend>::backward_embedding(Tensor& grad, const Batch& batch) {
  if (!embedding_.trained) return;
  if (embedding_scale_ != 1.0) ops::scale(grad.view(), embedding_scale_);
  ops::embedding_backward(grad.view(), batch.inputs, embedding_);
}

template <class T, class Backend>
ops::Matrix<T, Backend> LlamaModel<T, Backend>::top_gradient(const Batch& batch,
                                                             PassMarks<Backend>* marks) {
  Tensor stream = forward(batch);

  Tensor hidden(stream.rows(), stream.columns(), workspace_);
  ops::Matrix<ops::Statistic<T>, Backend> rstd(1, stream.rows(), workspace_);
  final_norm_.forward(hidden.view(), rstd, stream.view(), workspace_);
  cross_entropy_.begin(batch.labels, config_.vocabulary, batch.divisor);
  for (Index chunk = 0; chunk < cross_entropy_.chunks(); ++chunk) {
    cross_entropy_.forward_chunk(chunk, hidden.view(), head(), true);
    mark(marks, {&PassTimes::forward});
    cross_entropy_.backward_chunk(chunk, hidden.view(), hidden.view(),
                                  head());  // the gradient replaces the hidden state
    mark(marks, {&PassTimes::backward});
  }
  Tensor grad(stream.rows(), stream.columns(), workspace_);
  final_norm_.backward(grad.view(), ops::Accumulate::overwrite, hidden.view(), stream.view(), rstd,
                       workspace_);
  mark(marks, {&PassTimes::backward});
  return grad;
}

template <class T, class Backend>
double LlamaModel<T, Backend>::loss_and_gradients(const Batch& batch, PassTimes* times) {
  if (times == nullptr) return deferred_loss_and_gradients(batch).value();
  PassMarks<Backend> marks;
  const double loss = deferred_loss_and_gradients(batch, &marks).value();
  const PassTimes spent = marks.times();
  for (double PassTimes::* const time :
       {&PassTimes::forward, &PassTimes::backward, &PassTimes::branches_backward})
    times->*time += spent.*time;
  return loss;
}

template <class T, class Backend>
dropbp::DeferredNumber LlamaModel<T, Backend>::deferred_loss_and_gradients(
    const Batch& batch, PassMarks<Backend>* marks, const PassObserver* observer) {
  Tensor grad = top_gradient(batch, marks);
  const dropbp::DeferredNumber loss = cross_entropy_.deferred_mean();
  if (observer != nullptr) observer->loss_known(loss.value());
  for (std::size_t i = blocks_.size(); i-- > 0;) {
    Block& block = blocks_[i];
    if (i + 1 < blocks_.size()) block.mlp.continues_stream_of(blocks_[i + 1].attention);
    grad = block.mlp.backward(std::move(grad), batch.packed_shape());
    if (observer != nullptr) observer->passed(2 * i + 1);
    block.attention.continues_stream_of(block.mlp);
    grad = block.attention.backward(std::move(grad), batch.packed_shape());
    if (observer != nullptr) observer->passed(2 * i);
  }
  mark(marks, {&PassTimes::backward, &PassTimes::branches_backward});
  backward_embedding(grad, batch);
  mark(marks, {&PassTimes::backward});
  return loss;
}

template <class T, class Backend>
ops::Matrix<T, Backend> BranchwisePass<T, Backend>::forward() {
  model_.clear_gradients();
  Tensor grad = model_.top_gradient(batch_, nullptr);
  if (model_.embedding_.trained && model_.config_.tie_embeddings) {
    heads_share_ = Tensor(model_.embedding_.rows(), model_.embedding_.columns());
    ops::copy<T>(heads_share_.view(), model_.embedding_.gradient());
  }
  return grad;
}

template <class T, class Backend>
ops::Matrix<T, Backend> BranchwisePass<T, Backend>::backward(std::size_t branch,
                                                             const Tensor& grad_output) {
  Tensor grad(grad_output.rows(), grad_output.columns(), model_.workspace_);
  ops::copy<T>(grad.view(), grad_output.view());
  auto& block = model_.blocks_.at(branch / 2);
  return branch % 2 == 0 ? block.attention.backward(std::move(grad), batch_.packed_shape())
                         : block.mlp.backward(std::move(grad), batch_.packed_shape());
}

template <class T, class Backend>
void BranchwisePass<T, Backend>::backward_below(const Tensor& grad) {
  Tensor share(grad.rows(), grad.columns(), model_.workspace_);
  ops::copy<T>(share.view(), grad.view());
  model_.backward_embedding(share, batch_);
}

template <class T, class Backend>
void BranchwisePass<T, Backend>::clear_gradients(std::size_t branches) {
  const auto drop = [](ops::Parameter<T, Backend>& parameter) { parameter.drop_gradient(); };
  for (std::size_t i = 0; i < branches; ++i) {
    auto& block = model_.blocks_.at(i / 2);
    if (i % 2 == 0)
      block.attention.op().for_each_parameter(drop);
    else
      block.mlp.op().for_each_parameter(drop);
  }
  model_.embedding_.drop_gradient();
  if (!model_.embedding_.trained || !model_.config_.tie_embeddings) return;
  model_.embedding_.begin_gradient();
  ops::copy<T>(model_.embedding_.gradient(), heads_share_.view());
}

template <class T, class Backend>
dropbp::DeferredNumber LlamaModel<T, Backend>::deferred_loss(const Batch& batch) {
  Tensor stream = forward(batch);
  ops::Matrix<ops::Statistic<T>, Backend> rstd(1, stream.rows(), workspace_);
  final_norm_.forward(stream.view(), rstd, stream.view(), workspace_);
  return cross_entropy_.deferred_loss(stream.view(), head(), batch.labels, batch.divisor);
}

template <class T, class Backend>
std::size_t LlamaModel<T, Backend>::saved_bytes(std::size_t branch, Index tokens) const {
  const Block& block = blocks_.at(branch / 2);
  if (block.mlp.op().enabled())
    return static_cast<std::size_t>(tokens * config_.hidden) * sizeof(T);
  return branch % 2 == 0 ? block.attention.op().saved_bytes(tokens)
                         : block.mlp.op().saved_bytes(tokens);
}

template <class T, class Backend>
void load_weights(const std::filesystem::path& folder, LlamaModel<T, Backend>& model) {
  std::vector<NamedTensor> tensors;
  std::vector<std::uint32_t> checksums;
  const bool summed = model.lora().enabled();
  model.for_each_weight([&](const typename LlamaModel<T, Backend>::BaseWeight& weight) {
    NamedTensor tensor{.name = weight.name,
                       .shape = checkpoint_shape(weight.name, weight.rows, weight.columns)};
    const auto size = static_cast<std::size_t>(weight.rows * weight.columns);
    if constexpr (std::is_same_v<T, float> && !dropbp::DeviceBackend<Backend>)
      if (weight.value != nullptr) tensor.values = {weight.value, size};
    if (tensor.values.data() == nullptr)
      tensor.take = [weight, summed, at = tensors.size(),
                     &checksums](std::span<const float> values) {
        if (summed) checksums[at] = checksum_of(values);
        weight.set({values.data(), weight.rows, weight.columns});
      };
    tensors.push_back(std::move(tensor));
  });
  checksums.resize(tensors.size());
  load_folder(folder, tensors);
  if (!summed) return;
  for (std::size_t i = 0; i < tensors.size(); ++i)
    if (!tensors[i].take) checksums[i] = checksum_of(std::span<const float>(tensors[i].values));
  model.base_checksum_ = joined(checksums);
}

template <class T, class Backend>
std::vector<NamedTensor> merged_tensors(LlamaModel<T, Backend>& model) {
  std::vector<NamedTensor> tensors;
  model.for_each_weight([&](const typename LlamaModel<T, Backend>::BaseWeight& weight) {
    NamedTensor tensor{.name = weight.name,
                       .shape = checkpoint_shape(weight.name, weight.rows, weight.columns)};
    const bool merged = weight.projection != nullptr && model.lora().enabled();
    if constexpr (numbers_in_place<T, Backend>) {
      if (!merged)
        tensor.values = {weight.value, static_cast<std::size_t>(weight.rows * weight.columns)};
    }
    if (tensor.values.data() == nullptr)
      tensor.make = [weight, merged](std::span<float> values) {
        static_cast<void>(
            merged);  // unused on the host, where weights that are not merged have `values`
        const ops::MatrixView<float> to(values.data(), weight.rows, weight.columns);
        if constexpr (!numbers_in_place<T, Backend>) {
          ops::Matrix<T, Backend> made;
          if (merged) {
            made = ops::Matrix<T, Backend>(weight.rows, weight.columns);
            weight.projection->merged_weight(weight.part, made.view());
          }
          ops::download(
              to, merged ? made.view()
                         : ops::MatrixView<T, Backend>(weight.value, weight.rows, weight.columns));
        } else {
          weight.projection->merged_weight(weight.part, to);
        }
      };
    tensors.push_back(std::move(tensor));
  });
  return tensors;
}

template <class T, class Backend>
void save_weights(const std::filesystem::path& folder, LlamaModel<T, Backend>& model, DType dtype,
                  std::uint64_t shard_bytes, const Companions& companions) {
  save_model_folder(folder, model.config(), merged_tensors(model), dtype, shard_bytes, companions);
}

template class LlamaModel<double>;
template class BranchwisePass<double>;
template void load_weights(const std::filesystem::path&, LlamaModel<double>&);

#define DROPBP_LLAMA_INSTANTIATE(T, Backend)                                               \
  template class LlamaModel<T, Backend>;                                                   \
  template class BranchwisePass<T, Backend>;                                               \
  template void load_weights(const std::filesystem::path&, LlamaModel<T, Backend>&);       \
  template void save_weights(const std::filesystem::path&, LlamaModel<T, Backend>&, DType, \
                             std::uint64_t, const Companions&);                            \
  template std::vector<NamedTensor> merged_tensors(LlamaModel<T, Backend>&);
DROPBP_LLAMA_FOR_TRAINED(DROPBP_LLAMA_INSTANTIATE)
#undef DROPBP_LLAMA_INSTANTIATE

}  // namespace llama
