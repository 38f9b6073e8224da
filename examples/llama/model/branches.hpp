// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The branches of a model as the traits of its family make them.
#pragma once

#include <cstddef>
#include <memory>

#include <dropbp/flops.hpp>
#include <dropbp/ops/attention_branch.hpp>
#include <dropbp/ops/swiglu_branch.hpp>

#include "llama/formats/config.hpp"

namespace llama {

/// Of layer `layer`, for sequences of at most `sequence` tokens: a window of as many is none.
[[nodiscard]] ops::AttentionConfig attention_config(const LlamaConfig& config,
                                                    const ops::LoraConfig& lora, std::size_t layer,
                                                    std::ptrdiff_t sequence);
/// Of every layer.
[[nodiscard]] ops::SwiGLUConfig mlp_config(const LlamaConfig& config, const ops::LoraConfig& lora);

/// FLOPs of layer `layer`'s attention on one sequence.
[[nodiscard]] double attention_flops_of(const LlamaConfig& config, std::size_t layer,
                                        std::ptrdiff_t sequence);

/// Throws std::invalid_argument, naming it, for a trait that has a kernel for float and double on
/// the CPU alone: for a model in BFloat16, or on a device, which has none for windows either. A
/// window of `sequence` tokens is no trait.
void refuse_without_kernel(const LlamaConfig& config, std::ptrdiff_t sequence, bool on_device);

/// The tables of a model's layers, each made once.
template <class T, class Backend>
class RopeTables {
 public:
  using Table = ops::RopeTable<T, Backend>;

  RopeTables(const LlamaConfig& config, std::ptrdiff_t max_sequence) {
    const Traits& traits = config.traits;
    const auto make = [&](const RopeScaling& scaling, double theta) {
      const auto frequencies = rope_frequencies(scaling, theta, config.rotary(), max_sequence);
      return std::make_shared<const Table>(max_sequence, frequencies, scaling.attention);
    };
    global_ = make(traits.rope, config.rope_theta);
    if (traits.local_rope_theta > 0.0) local_ = make({}, traits.local_rope_theta);
  }

  /// Null for a layer without RoPE.
  std::shared_ptr<const Table> of(const LayerTraits& layer) const {
    if (layer.rope == LayerTraits::Rope::none) return nullptr;
    return layer.rope == LayerTraits::Rope::local ? local_ : global_;
  }

 private:
  std::shared_ptr<const Table> global_, local_;
};

}  // namespace llama
