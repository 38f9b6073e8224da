// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Reads and writes Hugging Face LLaMA folders: `config.json` with `model.safetensors` or shards.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "llama/formats/config.hpp"
#include "llama/formats/safetensors.hpp"

namespace llama {

/// A weight of the model and its values, row-major. If the model does not hold it as floats, two
/// functions replace `values`: `take` receives the loaded values, `make` fills the values to save.
/// They are called for one tensor at a time.
struct NamedTensor {
  std::string name;  ///< Hugging Face's: "model.layers.0.self_attn.q_proj.weight"
  std::vector<std::ptrdiff_t> shape;
  std::span<float> values = {};
  std::function<void(std::span<const float>)> take = {};
  std::function<void(std::span<float>)> make = {};
};

/// Names of a folder's config and weights.
struct FolderFormat {
  std::string_view config;   ///< "config.json"
  std::string_view weights;  ///< "model.safetensors"
};
inline constexpr FolderFormat model_format{"config.json", "model.safetensors"};
inline constexpr FolderFormat adapter_format{"adapter_config.json",
                                             "adapter_model.safetensors"};  ///< PEFT's

/// Path of the config that belongs to the weights in `folder` (see save_folder). Throws
/// std::runtime_error.
[[nodiscard]] std::filesystem::path find_config(const std::filesystem::path& folder,
                                                const FolderFormat& format);
/// The config of a model. If its config.json ties the output layer to the embedding but the weights
/// have an lm_head.weight that differs from the embedding (after rounding to the narrower type),
/// the result is not tied, so that this lm_head.weight is used, as in transformers 5; `note`
/// receives a sentence on that. The two are compared a piece at a time.
[[nodiscard]] LlamaConfig load_config(const std::filesystem::path& folder,
                                      const std::function<void(std::string_view)>& note = {});

/// The type of most bytes of a model's weights: F32, F16 or BF16; F32 for other types.
[[nodiscard]] DType stored_dtype(const std::filesystem::path& folder);

/// The parts of a model besides its weights that are copied from the original folder to the written
/// one: keys of config.json that this program does not use, generation settings, the tokenizer.
struct Companions {
  std::string config;                        ///< text of config.json; empty: none
  std::map<std::string, std::string> files;  ///< bytes, by name

  /// A list for messages, "bos_token_id and eos_token_id of config.json, tokenizer.json"; empty for
  /// none.
  [[nodiscard]] std::string text() const;
};
/// Whether a file of that name is a companion.
[[nodiscard]] bool is_companion(std::string_view name) noexcept;
/// The companions in a folder. Throws std::runtime_error for one that cannot be read.
[[nodiscard]] Companions load_companions(const std::filesystem::path& folder);
/// Path of the companion that belongs to the folder's weights (see save_folder).
[[nodiscard]] std::filesystem::path find_companion(const std::filesystem::path& folder,
                                                   const std::string& name);

/// Fills every tensor from the format's weights or, without them, from the shards of their
/// `.index.json`. The file must have each tensor with its exact shape, and no others except buffers
/// without weights (rotary_emb.inv_freq, and lm_head.weight if `tensors` has none because it is
/// tied: see load_config). All names and shapes are checked before the first value is written.
/// Throws std::runtime_error, also for NaN and infinity, naming the tensor and the position.
void load_folder(const std::filesystem::path& folder, std::span<const NamedTensor> tensors,
                 const FolderFormat& format = model_format);
/// Makes the same checks without reading values: damaged, NaN and infinite ones are not found.
void check_folder(const std::filesystem::path& folder, std::span<const NamedTensor> tensors,
                  const FolderFormat& format = model_format);

/// Larger weights are written as several files; this is Hugging Face's limit.
inline constexpr std::uint64_t default_shard_bytes = 5'000'000'000;

/// Creates the folder and throws if no weights can be saved there. Called before the training,
/// not after it.
void prepare_folder(const std::filesystem::path& folder, const FolderFormat& format = model_format);

/// Writes the config's text and the weights, creating the folder. Throws std::runtime_error, and
/// leaves the old weights intact, if that fails or a weight is NaN or infinite. Holds the
/// folder's OutputLock meanwhile, unless this process has it already, and removes temporary files
/// of killed saves.
///
/// At any point, the old or the new weights load, although two files cannot be renamed at once:
/// both are written and synced under temporary names (see AtomicFile; a full disk fails here), then
/// the weights are renamed, then the config. The weights carry a copy of their config. A kill
/// between the two renames leaves the new weights, the old config and the new config's temporary
/// file, which find_config recognises and save_folder completes. A config that is already equal is
/// not written. `companions`, by name, are written like the config; the weights carry their
/// checksums, by which find_companion recognises a valid temporary file. Other files in the folder
/// are not changed.
///
/// Weights of more than `shard_bytes` become model-00001-of-0000N.safetensors with at most this
/// many bytes of data each (a larger tensor has a file of its own) and an index,
/// model.safetensors.index.json, in Hugging Face's format. All of them are written under temporary
/// names first. The index is renamed before the shards. It has the checksum of each shard and a
/// copy of the config, by which load_folder, find_config and save_folder recognise shards that
/// a kill left under their temporary names. An old model.safetensors is used until it is removed,
/// just before the rename of the config. At the end, shards of other saves are removed. `metadata`
/// is added to the weights' metadata.
void save_folder(const std::filesystem::path& folder, const FolderFormat& format,
                 const std::string& config_text, std::span<const NamedTensor> tensors, DType dtype,
                 std::map<std::string, std::string> metadata = {},
                 std::uint64_t shard_bytes = default_shard_bytes,
                 const std::map<std::string, std::string>& companions = {});
/// The value of `key` in the metadata of a folder's weights; empty if absent.
[[nodiscard]] std::optional<std::string> find_metadata(const std::filesystem::path& folder,
                                                       const FolderFormat& format,
                                                       std::string_view key);
/// The same for a model.
void save_model_folder(const std::filesystem::path& folder, const LlamaConfig& config,
                       std::span<const NamedTensor> tensors, DType dtype = DType::f32,
                       std::uint64_t shard_bytes = default_shard_bytes,
                       const Companions& companions = {});

}  // namespace llama
