// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Hugging Face LLaMA directories: `config.json` with `model.safetensors` or sharded weights, read and written.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "config.hpp"
#include "safetensors.hpp"

namespace llama {

/// A weight of the model and where its values live (row-major, as many as the shape says). Where they do not live as floats
/// there are two functions instead, which see one tensor at a time: `take` is given what was loaded, `make` fills what is saved.
struct NamedTensor {
  std::string name;  ///< Hugging Face's: "model.layers.0.self_attn.q_proj.weight"
  std::vector<std::ptrdiff_t> shape;
  std::span<float> values = {};
  std::function<void(std::span<const float>)> take = {};
  std::function<void(std::span<float>)> make = {};
};

/// The config that belongs to the weights in `folder` (see save_checkpoint). Throws std::runtime_error.
[[nodiscard]] LlamaConfig load_config(const std::filesystem::path& folder);

/// Fills every tensor from `model.safetensors` or, without one, from the shards of `model.safetensors.index.json`.
/// Each must be there with exactly its shape, and nothing else may be there except buffers that carry no weights
/// (rotary_emb.inv_freq, and lm_head.weight when `tensors` has none because it is tied). All names and shapes are
/// checked before the first value is written. Throws std::runtime_error.
void load_checkpoint(const std::filesystem::path& folder, std::span<const NamedTensor> tensors);

/// Creates the folder and fails now, rather than after hours of training, if no checkpoint could be saved there.
void prepare_checkpoint_folder(const std::filesystem::path& folder);

/// Writes `config.json` and `model.safetensors`, creating the folder; on std::runtime_error the old checkpoint is
/// intact.
///
/// Two files cannot be renamed in one stroke, so: both are written and synced as `.tmp` (every full disk is met here),
/// then the weights are renamed, then the config. The weights carry a copy of their config; a kill between the two
/// renames leaves new weights, the old config.json and the new config.json.tmp, which load_config recognises and
/// completes. A config.json that already says the same is left alone. So the old or the new checkpoint loads, at any
/// point.
void save_checkpoint(const std::filesystem::path& folder, const LlamaConfig& config,
                     std::span<const NamedTensor> tensors, DType dtype = DType::f32);

}  // namespace llama
