// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "llama/formats/gguf_model.hpp"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "llama/formats/atomic_file.hpp"
#include "llama/formats/gguf.hpp"
#include "llama/formats/gguf_tokenizer.hpp"
#include "llama/formats/output_lock.hpp"

namespace llama {
namespace {

constexpr std::pair<std::string_view, std::string_view> names[] = {
    {"self_attn.q_proj", "attn_q"},          {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},          {"self_attn.o_proj", "attn_output"},
    {"mlp.gate_proj", "ffn_gate"},           {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},           {"input_layernorm", "attn_norm"},
    {"post_attention_layernorm", "ffn_norm"}};

std::string gguf_tensor_name(std::string_view name) {
  if (name == "model.embed_tokens.weight") return "token_embd.weight";
  if (name == "model.norm.weight") return "output_norm.weight";
  if (name == "lm_head.weight") return "output.weight";
  constexpr std::string_view layers = "model.layers.", weight = ".weight";
  if (name.starts_with(layers) && name.ends_with(weight)) {
    const std::string_view rest =
        name.substr(layers.size(), name.size() - layers.size() - weight.size());
    const std::size_t dot = std::min(rest.find('.'), rest.size() - 1);
    for (const auto& [here, there] : names)
      if (rest.substr(dot + 1) == here)
        return fmt::format("blk.{}.{}.weight", rest.substr(0, dot), there);
  }
  throw std::runtime_error(
      fmt::format("a model in GGUF must have the tensors of llama.cpp's architecture 'llama', but "
                  "it has '{}'; write it with --out-format safetensors",
                  name));
}

/// Rows i and i + half of each head become neighbours.
void interleave_halves(std::span<float> values, std::size_t heads, std::size_t columns) {
  const std::size_t head = values.size() / heads, half = head / columns / 2;
  std::vector<float> rows(head);
  for (std::size_t h = 0; h < heads; ++h) {
    const auto own = values.subspan(h * head, head);
    std::ranges::copy(own, rows.begin());
    for (std::size_t i = 0; i < half; ++i)
      for (std::size_t part = 0; part < 2; ++part)
        std::copy_n(rows.data() + (part * half + i) * columns, columns,
                    own.data() + (2 * i + part) * columns);
  }
}

GgufMetadata metadata_of(const LlamaConfig& c, DType dtype) {
  const auto u32 = [](std::ptrdiff_t n) { return static_cast<std::uint32_t>(n); };
  // llama.cpp's numbers for "mostly" this type.
  const std::uint32_t file_type = dtype == DType::bf16 ? 32 : dtype == DType::f16 ? 1 : 0;
  return {{"general.architecture", "llama"},
          {"general.type", "model"},
          {"general.file_type", file_type},
          {"llama.block_count", u32(c.layers)},
          {"llama.context_length", u32(c.max_positions)},
          {"llama.embedding_length", u32(c.hidden)},
          {"llama.feed_forward_length", u32(c.intermediate)},
          {"llama.attention.head_count", u32(c.heads)},
          {"llama.attention.head_count_kv", u32(c.kv_heads)},
          {"llama.attention.key_length", u32(c.head_size())},
          {"llama.attention.value_length", u32(c.head_size())},
          {"llama.attention.layer_norm_rms_epsilon", static_cast<float>(c.norm_epsilon)},
          {"llama.rope.dimension_count", u32(c.head_size())},
          {"llama.rope.freq_base", static_cast<float>(c.rope_theta)},
          {"llama.vocab_size", u32(c.vocabulary)}};
}

/// A trait that llama.cpp's architecture "llama" does not have, or that is not written here.
std::optional<std::string> trait_beyond(const LlamaConfig& config) {
  const Traits& t = config.traits;
  const std::pair<bool, const char*> beyond[] = {
      {t.rope.kind != RopeScaling::Kind::plain, "scaled RoPE"},
      {config.rotary() != config.head_size(), "RoPE on a part of each head"},
      {t.qkv_bias || t.o_bias || t.mlp_bias, "biases"},
      {t.fused, "fused linear maps"},
      {t.head_norm != ops::HeadNorm::none, "norms of query and key heads"},
      {t.norms != NormPlaces::inputs, "norms of the branches' results"},
      {t.norm_offset != 0.0, "norms of 1 + weight"},
      {t.gate != ops::Gate::silu, "the gate gelu_pytorch_tanh"},
      {t.scaled_embedding, "a scaled embedding"},
      {t.query_scale != 0.0, "a scale of its own for attention's scores"},
      {t.attention_softcap > 0.0 || t.logit_softcap > 0.0, "soft caps"}};
  for (const auto& [has, name] : beyond)
    if (has) return name;
  for (const LayerTraits& layer : t.layers) {
    if (layer.rope == LayerTraits::Rope::none) return "layers without RoPE";
    if (layer.rope == LayerTraits::Rope::local) return "layers with a base of RoPE of their own";
    if (layer.window > 0 && layer.window < config.max_positions)
      return fmt::format("a sliding window of {} tokens", layer.window);
  }
  return std::nullopt;
}

}  // namespace

void require_gguf_traits(const LlamaConfig& config) {
  if (const auto trait = trait_beyond(config))
    throw std::runtime_error(
        fmt::format("a model in GGUF must be what llama.cpp's architecture 'llama' computes, but "
                    "this {} model has {}; write it with --out-format safetensors and convert it "
                    "with llama.cpp's own script",
                    config.traits.family, *trait));
}

void save_gguf(const std::filesystem::path& path, const LlamaConfig& config,
               std::span<const NamedTensor> tensors, DType dtype, const Companions& companions) {
  require_gguf_traits(config);
  GgufMetadata metadata = metadata_of(config, dtype);
  for (auto& entry : gguf_tokenizer(companions, config.vocabulary))
    metadata.push_back(std::move(entry));
  std::vector<GgufTensor> written;
  for (const NamedTensor& tensor : tensors) {
    const bool q = tensor.name.ends_with(".q_proj.weight"),
               k = tensor.name.ends_with(".k_proj.weight");
    const auto heads = static_cast<std::size_t>(q ? config.heads : config.kv_heads);
    written.push_back({.name = gguf_tensor_name(tensor.name),
                       .shape = tensor.shape,
                       .dtype = tensor.shape.size() == 1 ? DType::f32 : dtype,
                       .make = [&tensor, heads, rotated = q || k](std::span<float> values) {
                         if (tensor.make)
                           tensor.make(values);
                         else
                           std::ranges::copy(tensor.values, values.begin());
                         if (rotated)
                           interleave_halves(values, heads,
                                             static_cast<std::size_t>(tensor.shape.back()));
                       }});
  }
  // What killed runs left, if they are known to be dead.
  const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : ".";
  if (OutputLock::held_here(Output::folder, folder))
    remove_temporaries(folder, [&](std::string_view name) { return name == path.filename(); });
  write_gguf(path, metadata, written);
}

}  // namespace llama
