// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// File names in a model's folder, and the temporary files of a save that was interrupted
// between its renames.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "llama/formats/model_folder.hpp"

namespace llama {

inline constexpr const char* embedded_config_key = "dropbp.config";
inline constexpr const char* companions_key =
    "dropbp.files";  // JSON: name to checksum of the bytes
inline constexpr const char* shards_key =
    "dropbp.shards";  // in an index's metadata: the checksum of each shard's header
inline constexpr std::size_t max_index_bytes = 32'000'000;  // twice the index of the largest models
/// Hugging Face's names of the generation settings, the tokenizer and the chat template.
inline constexpr std::string_view companion_names[] = {"generation_config.json",
                                                       "tokenizer.json",
                                                       "tokenizer_config.json",
                                                       "special_tokens_map.json",
                                                       "added_tokens.json",
                                                       "vocab.json",
                                                       "merges.txt",
                                                       "tokenizer.model",
                                                       "chat_template.json",
                                                       "chat_template.jinja"};

[[nodiscard]] bool is_there(const std::filesystem::path& path);

/// The temporary files whose final path is `path`.
[[nodiscard]] std::vector<std::filesystem::path> temporaries_of(const std::filesystem::path& path);

[[nodiscard]] std::string index_name(const FolderFormat& format);

/// Shard `number` of `count`, both from 1: "model-00001-of-00002.safetensors".
[[nodiscard]] std::string shard_name(const FolderFormat& format, std::size_t number,
                                     std::size_t count);

/// Whether `name` is the name of a shard.
[[nodiscard]] bool is_shard_name(const FolderFormat& format, std::string_view name);

/// The checksums of an index's shards; empty if another program wrote the index.
[[nodiscard]] std::map<std::string, std::string> shard_checksums(const nlohmann::json& index);

/// The file of a shard, which may have its temporary name: the index is renamed before its shards.
[[nodiscard]] std::filesystem::path find_shard(const std::filesystem::path& path,
                                               const std::map<std::string, std::string>& checksums);

[[nodiscard]] std::optional<std::string> metadata_of(const std::filesystem::path& weights,
                                                     std::string_view key);

[[nodiscard]] bool has_text(const std::filesystem::path& path, std::string_view text);

/// After a save that was interrupted between its renames: the temporary file that has the config of
/// the weights. Empty if there is none; a config that differs from the weights was then edited by
/// hand and is valid.
[[nodiscard]] std::optional<std::filesystem::path> pending_config(
    const std::filesystem::path& folder, const FolderFormat& format);

[[nodiscard]] std::string checksum_text(std::string_view bytes);

/// The companions that were saved with the weights and still have temporary names, as (temporary
/// file, name).
[[nodiscard]] std::vector<std::pair<std::filesystem::path, std::filesystem::path>>
pending_companions(const std::filesystem::path& folder, const FolderFormat& format);

/// The files that an interrupted save has not renamed yet, as (temporary file, name). Empty if the
/// weights are damaged.
[[nodiscard]] std::vector<std::pair<std::filesystem::path, std::filesystem::path>> pending_files(
    const std::filesystem::path& folder, const FolderFormat& format);

}  // namespace llama
