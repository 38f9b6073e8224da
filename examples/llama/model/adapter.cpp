// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "llama/model/adapter.hpp"

#include <map>
#include <stdexcept>
#include <string_view>
#include <type_traits>
#include <vector>

#include <fmt/format.h>

namespace llama {
namespace {

constexpr std::string_view peft_prefix = "base_model.model.";
constexpr const char* base_key =
    "dropbp.base";  // in __metadata__: CRC-32C of the base, see LlamaModel::base_checksum

/// The output layer where it is the embedding too: PEFT stores both, of the same values.
template <class T, class Backend>
NamedTensor tied_head(const ops::ParameterSlice<T, Backend>& embedding) {
  const ops::MatrixView<T, Backend> view(embedding.value, embedding.rows, embedding.columns);
  NamedTensor head{.name = fmt::format("{}lm_head.weight", peft_prefix),
                   .shape = {embedding.rows, embedding.columns}};
  head.make = [view](std::span<float> values) {
    ops::download(ops::MatrixView<float>(values.data(), view.rows, view.columns), view);
  };
  head.take = [view, make = head.make](std::span<const float> values) {
    ops::Matrix<T, Backend> own(view.rows, view.columns);
    ops::upload(own.view(), ops::MatrixView<const float>(values.data(), view.rows, view.columns));
    std::vector<float> rounded(values.size()), shared(values.size());
    ops::download(ops::MatrixView<float>(rounded.data(), view.rows, view.columns), own.view());
    make(shared);
    if (rounded == shared) return;
    throw std::runtime_error(
        "an adapter with a trained embedding or output layer must have the same values for both, "
        "because this model has one matrix for both, but they differ; train it with PEFT's "
        "ensure_weight_tying, or on a model with an lm_head of its own");
  };
  return head;
}

template <class T, class Backend>
std::vector<NamedTensor> adapter_tensors(LlamaModel<T, Backend>& model) {
  std::vector<NamedTensor> tensors;
  model.for_each_tensor([&](const ops::ParameterSlice<T, Backend>& tensor) {
    if (!model.lora().enabled() || !tensor.trained) return;
    NamedTensor one{.name = std::string(peft_prefix) + tensor.name,
                    .shape = checkpoint_shape(tensor.name, tensor.rows, tensor.columns)};
    if constexpr (std::is_same_v<T, float> && !dropbp::DeviceBackend<Backend>) {
      one.values = {tensor.value, tensor.size()};
    } else {
      const ops::MatrixView<T, Backend> view(tensor.value, tensor.rows, tensor.columns);
      one.take = [view](std::span<const float> values) {
        ops::upload(view, ops::MatrixView<const float>(values.data(), view.rows, view.columns));
      };
      one.make = [view](std::span<float> values) {
        ops::download(ops::MatrixView<float>(values.data(), view.rows, view.columns), view);
      };
    }
    tensors.push_back(std::move(one));
    if (model.config().tie_embeddings && tensor.name == "model.embed_tokens.weight")
      tensors.push_back(tied_head(tensor));
  });
  return tensors;
}

}  // namespace

template <class T, class Backend>
void load_adapter(const std::filesystem::path& folder, LlamaModel<T, Backend>& model) {
  const std::vector<NamedTensor> tensors = adapter_tensors(model);
  check_folder(folder, tensors, adapter_format);
  const std::string base = fmt::format("{:08x}", model.base_checksum());
  const auto trained_on = find_metadata(folder, adapter_format, base_key);
  if (trained_on && model.base_checksum() != 0 && *trained_on != base)
    throw std::runtime_error(
        fmt::format("the adapter in '{}' must be used with the base that it was trained on, "
                    "weights of CRC-32C {}, but these are of {}; give that model with --model",
                    folder.string(), *trained_on, base));
  load_folder(folder, tensors, adapter_format);
}

template <class T, class Backend>
void save_adapter(const std::filesystem::path& folder, LlamaModel<T, Backend>& model,
                  const std::string& base, DType dtype) {
  std::map<std::string, std::string> metadata;
  if (model.base_checksum() != 0) metadata[base_key] = fmt::format("{:08x}", model.base_checksum());
  save_folder(folder, adapter_format, adapter_config_json(model.lora(), base, model.config()),
              adapter_tensors(model), dtype, metadata);
}

template void load_adapter(const std::filesystem::path&, LlamaModel<double>&);
#define DROPBP_LLAMA_INSTANTIATE(T, Backend)                                         \
  template void load_adapter(const std::filesystem::path&, LlamaModel<T, Backend>&); \
  template void save_adapter(const std::filesystem::path&, LlamaModel<T, Backend>&,  \
                             const std::string&, DType);
DROPBP_LLAMA_FOR_TRAINED(DROPBP_LLAMA_INSTANTIATE)
#undef DROPBP_LLAMA_INSTANTIATE

}  // namespace llama
