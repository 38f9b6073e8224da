// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "llama/model/branches.hpp"

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>

#include <fmt/format.h>

namespace llama {
namespace {

// Hugging Face's post_attention_layernorm is the MLP's input norm in LLaMA, and the norm of the
// attention's result elsewhere.
ops::BranchNormNames attention_norms(NormPlaces places) {
  if (places == NormPlaces::outputs) return {"", "post_attention_layernorm"};
  return {"input_layernorm", places == NormPlaces::both ? "post_attention_layernorm" : ""};
}

ops::BranchNormNames mlp_norms(NormPlaces places) {
  if (places == NormPlaces::inputs) return {"post_attention_layernorm", ""};
  return {places == NormPlaces::both ? "pre_feedforward_layernorm" : "",
          "post_feedforward_layernorm"};
}

}  // namespace

ops::AttentionConfig attention_config(const LlamaConfig& config, const ops::LoraConfig& lora,
                                      std::size_t layer, std::ptrdiff_t sequence) {
  const Traits& traits = config.traits;
  const std::ptrdiff_t window = traits.layer(layer).window;
  return {.hidden = config.hidden,
          .heads = config.heads,
          .kv_heads = config.kv_heads,
          .head_size = config.head_size(),
          .norm_eps = config.norm_epsilon,
          .lora = lora,
          .window = window < sequence ? window : 0,
          .softcap = traits.attention_softcap,
          .query_scale = traits.query_scale,
          .norms = attention_norms(traits.norms),
          .norm_offset = traits.norm_offset,
          .head_norm = traits.head_norm,
          .qkv_bias = traits.qkv_bias,
          .o_bias = traits.o_bias,
          .fused = traits.fused};
}

ops::SwiGLUConfig mlp_config(const LlamaConfig& config, const ops::LoraConfig& lora) {
  const Traits& traits = config.traits;
  return {.hidden = config.hidden,
          .intermediate = config.intermediate,
          .norm_eps = config.norm_epsilon,
          .lora = lora,
          .norms = mlp_norms(traits.norms),
          .norm_offset = traits.norm_offset,
          .gate = traits.gate,
          .bias = traits.mlp_bias,
          .fused = traits.fused};
}

double attention_flops_of(const LlamaConfig& config, std::size_t layer, std::ptrdiff_t sequence) {
  const auto size = [](std::ptrdiff_t n) { return static_cast<std::size_t>(n); };
  return dropbp::attention_flops({.sequence = size(sequence),
                                  .hidden = size(config.hidden),
                                  .heads = size(config.heads),
                                  .kv_heads = size(config.kv_heads),
                                  .causal = true,
                                  .head_size = size(config.head_size()),
                                  .window = size(config.traits.layer(layer).window)});
}

namespace {

std::optional<std::string> trait_without_kernel(const LlamaConfig& config, std::ptrdiff_t sequence,
                                                bool on_device) {
  const Traits& traits = config.traits;
  for (const LayerTraits& layer : traits.layers)
    if (on_device && layer.window > 0 && layer.window < sequence)
      return fmt::format("a sliding window of {} tokens in sequences of {}", layer.window,
                         sequence);
  if (traits.attention_softcap > 0.0 || traits.logit_softcap > 0.0) return "soft caps";
  if (traits.qkv_bias || traits.o_bias || traits.mlp_bias) return "biases";
  if (traits.gate != ops::Gate::silu) return "the gate gelu_pytorch_tanh";
  if (traits.norm_offset != 0.0) return "norms of 1 + weight";
  return std::nullopt;
}

}  // namespace

void refuse_without_kernel(const LlamaConfig& config, std::ptrdiff_t sequence, bool on_device) {
  if (const auto trait = trait_without_kernel(config, sequence, on_device))
    throw std::invalid_argument(
        fmt::format("{} a model must have only traits with a kernel there, but this {} model has "
                    "{}; use --device cpu with --precision float32, or another model",
                    on_device ? "on a device" : "in bfloat16", config.traits.family, *trait));
}

}  // namespace llama
