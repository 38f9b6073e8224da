// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The names in a checkpoint's folder, and what a save that was cut between its renames left there.
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

#include "llama/formats/checkpoint.hpp"

namespace llama {

inline constexpr const char* embedded_config_key = "dropbp.config";
inline constexpr const char* companions_key =
    "dropbp.files";  // JSON from name to checksum of bytes
inline constexpr const char* shards_key =
    "dropbp.shards";  // in an index's metadata: the header's checksum of each shard
inline constexpr std::size_t max_index_bytes = 32'000'000;  // twice that of the largest models
/// As Hugging Face names them: what text is made with, and turned into ids and back by.
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

/// The temporary files that were to become `path`.
[[nodiscard]] std::vector<std::filesystem::path> temporaries_of(const std::filesystem::path& path);

[[nodiscard]] std::string index_name(const FolderFormat& format);

/// Shard `number` of `count`, both from 1: "model-00001-of-00002.safetensors".
[[nodiscard]] std::string shard_name(const FolderFormat& format, std::size_t number,
                                     std::size_t count);

/// Whether it is the name of any shard.
[[nodiscard]] bool is_shard_name(const FolderFormat& format, std::string_view name);

/// What an index says of its shards' checksums: those that were saved here, else none.
[[nodiscard]] std::map<std::string, std::string> shard_checksums(const nlohmann::json& index);

/// The file of a shard: the index is renamed before its shards, so that one may still have the name
/// of before.
[[nodiscard]] std::filesystem::path find_shard(const std::filesystem::path& path,
                                               const std::map<std::string, std::string>& checksums);

[[nodiscard]] std::optional<std::string> metadata_of(const std::filesystem::path& weights,
                                                     std::string_view key);

[[nodiscard]] bool has_text(const std::filesystem::path& path, std::string_view text);

/// Of a save that was cut between its two renames: the weights' own config, complete in a temporary
/// file of the config. A config that differs from the weights without that file was edited by hand
/// and counts.
[[nodiscard]] std::optional<std::filesystem::path> pending_config(
    const std::filesystem::path& folder, const FolderFormat& format);

[[nodiscard]] std::string checksum_text(std::string_view bytes);

/// The companions that were saved with the weights and still have temporary names, as (temporary
/// file, name).
[[nodiscard]] std::vector<std::pair<std::filesystem::path, std::filesystem::path>>
pending_companions(const std::filesystem::path& folder, const FolderFormat& format);

/// The files of a save that was cut between its renames that still are to be renamed, as
/// (temporary file, name). An error while looking (weights damaged) means there is nothing worth
/// completing.
[[nodiscard]] std::vector<std::pair<std::filesystem::path, std::filesystem::path>> pending_files(
    const std::filesystem::path& folder, const FolderFormat& format);

}  // namespace llama
