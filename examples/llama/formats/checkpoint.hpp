// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Hugging Face LLaMA directories: `config.json` with `model.safetensors` or sharded weights, read
// and written.
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

/// A weight of the model and where its values live (row-major, as many as the shape says). Where
/// they do not live as floats there are two functions instead, which see one tensor at a time:
/// `take` is given what was loaded, `make` fills what is saved.
struct NamedTensor {
  std::string name;  ///< Hugging Face's: "model.layers.0.self_attn.q_proj.weight"
  std::vector<std::ptrdiff_t> shape;
  std::span<float> values = {};
  std::function<void(std::span<const float>)> take = {};
  std::function<void(std::span<float>)> make = {};
};

/// A folder's two files that belong together.
struct FolderFormat {
  std::string_view config;   ///< "config.json"
  std::string_view weights;  ///< "model.safetensors"
};
inline constexpr FolderFormat model_format{"config.json", "model.safetensors"};
inline constexpr FolderFormat adapter_format{"adapter_config.json",
                                             "adapter_model.safetensors"};  ///< PEFT's

/// The config that belongs to the weights in `folder` (see save_folder). Throws std::runtime_error.
[[nodiscard]] std::filesystem::path find_config(const std::filesystem::path& folder,
                                                const FolderFormat& format);
/// Of a model. Where its config.json says that the output layer is the embedding but the weights
/// have an lm_head.weight that is no copy of it (a copy rounded to a narrower type counts as one),
/// the result is not tied, so that this lm_head.weight is used, as transformers does from version 5
/// on; `note` is told so. The two are compared a piece at a time.
[[nodiscard]] LlamaConfig load_config(const std::filesystem::path& folder,
                                      const std::function<void(std::string_view)>& note = {});

/// What most bytes of a model's numbers are: F32, F16 or BF16; F32 for other types.
[[nodiscard]] DType stored_dtype(const std::filesystem::path& folder);

/// What belongs to a model beside its weights and goes from the folder that a training begins with
/// to the one that it writes: keys of config.json that this program does not own, the settings for
/// generation, the tokenizer.
struct Companions {
  std::string config;                        ///< whole text of config.json; empty: none
  std::map<std::string, std::string> files;  ///< bytes, by name

  /// "bos_token_id and eos_token_id of config.json, tokenizer.json", for a line; empty for none.
  [[nodiscard]] std::string text() const;
};
/// Whether a file of that name is one of them.
[[nodiscard]] bool is_companion(std::string_view name) noexcept;
/// Those of them that are there. Throws std::runtime_error for one that cannot be read.
[[nodiscard]] Companions load_companions(const std::filesystem::path& folder);
/// Where the bytes of one are that belong to the folder's weights (see save_folder).
[[nodiscard]] std::filesystem::path find_companion(const std::filesystem::path& folder,
                                                   const std::string& name);

/// Fills every tensor from the format's weights or, without them, from the shards of their
/// `.index.json`. Each must be there with exactly its shape, and nothing else may be there except
/// buffers that carry no weights (rotary_emb.inv_freq, and lm_head.weight when `tensors` has none
/// because it is tied: see load_config). All names and shapes are checked before the first value is
/// written. Throws std::runtime_error, also for a value that is NaN or infinite, with its tensor
/// and place.
void load_checkpoint(const std::filesystem::path& folder, std::span<const NamedTensor> tensors,
                     const FolderFormat& format = model_format);
/// Throws what that would, but for damaged numbers and those not finite, and fills nothing.
void check_checkpoint(const std::filesystem::path& folder, std::span<const NamedTensor> tensors,
                      const FolderFormat& format = model_format);

/// Weights of more bytes than this are written as several files: Hugging Face's limit.
inline constexpr std::uint64_t default_shard_bytes = 5'000'000'000;

/// Creates the folder and fails now, rather than after hours of training, if no checkpoint could be
/// saved there.
void prepare_checkpoint_folder(const std::filesystem::path& folder,
                               const FolderFormat& format = model_format);

/// Writes the config's text and the weights, creating the folder; on std::runtime_error what was
/// there before is intact. Holds the folder's OutputLock meanwhile, unless this process has it
/// already, and removes what killed saves left. Weights that are NaN or infinite are such an error:
/// they are not written.
///
/// Two files cannot be renamed in one stroke, so: both are written and synced under temporary names
/// (see AtomicFile; every full disk is met here), then the weights are renamed, then the config.
/// The weights carry a copy of their config; a kill between the two renames leaves new weights, the
/// old config and the new config's temporary file, which find_config recognises and save_folder
/// completes. A config that already says the same is left alone. So the old or the new folder
/// loads, at any point. `companions`, by name, are treated as the config is; of them the weights
/// carry checksums, by which find_companion recognises a temporary file that counts. Other files in
/// the folder are left alone.
///
/// Weights of more than `shard_bytes` become model-00001-of-0000N.safetensors with at most so many
/// bytes of numbers each (a larger tensor has one of its own) and an index,
/// model.safetensors.index.json, in Hugging Face's format. All of them are written under temporary
/// names first. The index is renamed before the shards; it has the checksum of each and a copy of
/// the config, by which load_checkpoint, find_config and save_folder recognise those that a kill
/// left under their temporary names. A model.safetensors that is there counts until it is removed,
/// which is the last before the config. In the end shards of other saves are removed. `metadata`
/// goes into the weights' own beside that.
void save_folder(const std::filesystem::path& folder, const FolderFormat& format,
                 const std::string& config_text, std::span<const NamedTensor> tensors, DType dtype,
                 std::map<std::string, std::string> metadata = {},
                 std::uint64_t shard_bytes = default_shard_bytes,
                 const std::map<std::string, std::string>& companions = {});
/// What the weights in a folder have of it; none where it is not there.
[[nodiscard]] std::optional<std::string> find_metadata(const std::filesystem::path& folder,
                                                       const FolderFormat& format,
                                                       std::string_view key);
/// The same for a model.
void save_checkpoint(const std::filesystem::path& folder, const LlamaConfig& config,
                     std::span<const NamedTensor> tensors, DType dtype = DType::f32,
                     std::uint64_t shard_bytes = default_shard_bytes,
                     const Companions& companions = {});

}  // namespace llama
