// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

#include "llama/formats/model_folder_files.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <system_error>

#include "llama/formats/atomic_file.hpp"
#include "llama/formats/crc32c.hpp"
#include "llama/formats/strict_json.hpp"

namespace llama {

bool is_there(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

std::vector<std::filesystem::path> temporaries_of(const std::filesystem::path& path) {
  std::vector<std::filesystem::path> found = temporaries_in(path.parent_path());
  std::erase_if(found, [&](const std::filesystem::path& temporary) {
    return final_name(temporary.filename().string()) != path.filename().string();
  });
  return found;
}

std::string index_name(const FolderFormat& format) {
  return fmt::format("{}.index.json", format.weights);
}

std::string shard_name(const FolderFormat& format, std::size_t number, std::size_t count) {
  const std::filesystem::path weights(format.weights);
  return fmt::format("{}-{:05}-of-{:05}{}", weights.stem().string(), number, count,
                     weights.extension().string());
}

bool is_shard_name(const FolderFormat& format, std::string_view name) {
  const std::string pattern = shard_name(format, 0, 0);
  return std::ranges::equal(
      name, pattern, [](char c, char p) { return p == '0' ? c >= '0' && c <= '9' : c == p; });
}

std::map<std::string, std::string> shard_checksums(const nlohmann::json& index) {
  std::map<std::string, std::string> checksums;
  const auto metadata = index.find("metadata");
  if (metadata == index.end() || !metadata->is_object()) return checksums;
  const auto shards = metadata->find(shards_key);
  if (shards == metadata->end() || !shards->is_object()) return checksums;
  for (const auto& [name, checksum] : shards->items())
    checksums[name] = checksum.is_string() ? checksum.get<std::string>() : "";
  return checksums;
}

namespace {

bool has_checksum(const std::filesystem::path& path, const std::string& checksum) {
  return is_there(path) && SafetensorsFile(path).own_checksum() == checksum;
}

/// A complete shard whose save ended before its rename; incomplete shards do not qualify.
std::optional<std::filesystem::path> pending_shard(const std::filesystem::path& path,
                                                   const std::string& checksum) {
  for (const std::filesystem::path& temporary : temporaries_of(path)) {
    try {
      if (has_checksum(temporary, checksum)) return temporary;
    } catch (const std::runtime_error&) {
    }
  }
  return std::nullopt;
}

}  // namespace

std::filesystem::path find_shard(const std::filesystem::path& path,
                                 const std::map<std::string, std::string>& checksums) {
  const auto checksum = checksums.find(path.filename().string());
  if (checksum == checksums.end() || has_checksum(path, checksum->second)) return path;
  if (const auto pending = pending_shard(path, checksum->second)) return *pending;
  if (!is_there(path)) return path;  // opening it reports that
  throw std::runtime_error(
      fmt::format("'{}' must be the shard that its index was saved with, of checksum {}, but it is "
                  "another one; fetch the shards that belong to the index",
                  path.string(), checksum->second));
}

std::optional<std::string> metadata_of(const std::filesystem::path& weights, std::string_view key) {
  if (!is_there(weights)) return std::nullopt;
  const SafetensorsFile file(weights);
  const auto entry = file.metadata().find(std::string(key));
  return entry == file.metadata().end() ? std::nullopt : std::optional(entry->second);
}

namespace {

/// Empty if the weights are one file or do not exist.
std::optional<nlohmann::json> read_index(const std::filesystem::path& folder,
                                         const FolderFormat& format) {
  const std::filesystem::path path = folder / index_name(format);
  if (is_there(folder / format.weights) || !is_there(path)) return std::nullopt;
  return parse_strict_json(read_small_file(path, max_index_bytes),
                           fmt::format("'{}'", path.string()));
}

/// The metadata that save_folder wrote into the weights under this key, if any.
std::optional<std::string> embedded(const std::filesystem::path& folder, const FolderFormat& format,
                                    const char* key) {
  const auto index = read_index(folder, format);
  if (!index) return metadata_of(folder / format.weights, key);
  const auto metadata = index->find("metadata");
  if (metadata == index->end() || !metadata->is_object()) return std::nullopt;
  const auto text = metadata->find(key);
  return text != metadata->end() && text->is_string() ? std::optional(text->get<std::string>())
                                                      : std::nullopt;
}

}  // namespace

bool has_text(const std::filesystem::path& path, std::string_view text) {
  std::error_code error;
  return std::filesystem::is_regular_file(path, error) &&
         std::filesystem::file_size(path, error) == text.size() && read_small_file(path) == text;
}

std::optional<std::filesystem::path> pending_config(const std::filesystem::path& folder,
                                                    const FolderFormat& format) {
  const auto temporaries = temporaries_of(folder / format.config);
  if (temporaries.empty()) return std::nullopt;
  const auto config = embedded(folder, format, embedded_config_key);
  if (!config) return std::nullopt;
  for (const std::filesystem::path& temporary : temporaries)
    if (has_text(temporary, *config)) return temporary;
  return std::nullopt;
}

std::string checksum_text(std::string_view bytes) {
  return fmt::format("{:08x}", crc32c(0, bytes.data(), bytes.size()));
}

namespace {

bool has_bytes_of(const std::filesystem::path& path, const std::string& checksum) {
  std::error_code error;
  return std::filesystem::is_regular_file(path, error) &&
         checksum_text(read_small_file(path)) == checksum;
}

}  // namespace

std::vector<std::pair<std::filesystem::path, std::filesystem::path>> pending_companions(
    const std::filesystem::path& folder, const FolderFormat& format) {
  std::vector<std::pair<std::filesystem::path, std::filesystem::path>> pending;
  const auto list = embedded(folder, format, companions_key);
  if (!list) return pending;
  const nlohmann::json checksums =
      parse_strict_json(*list, fmt::format("'{}' in '{}'", companions_key, folder.string()));
  for (const auto& [name, checksum] : checksums.items()) {
    if (!checksum.is_string() || !is_companion(name)) continue;
    const auto temporaries = temporaries_of(folder / name);
    const auto written = std::ranges::find_if(temporaries, [&](const auto& temporary) {
      return has_bytes_of(temporary, checksum.template get<std::string>());
    });
    if (written != temporaries.end()) pending.emplace_back(*written, folder / name);
  }
  return pending;
}

std::vector<std::pair<std::filesystem::path, std::filesystem::path>> pending_files(
    const std::filesystem::path& folder, const FolderFormat& format) {
  std::vector<std::pair<std::filesystem::path, std::filesystem::path>> pending;
  try {
    if (const auto index = read_index(folder, format)) {
      const auto checksums = shard_checksums(*index);
      for (const auto& [name, checksum] : checksums) {
        if (!is_shard_name(format, name)) continue;
        const std::filesystem::path shard = find_shard(folder / name, checksums);
        if (shard != folder / name) pending.emplace_back(shard, folder / name);
      }
    }
    for (const auto& companion : pending_companions(folder, format)) pending.push_back(companion);
    if (const auto config = pending_config(folder, format))
      pending.emplace_back(*config, folder / format.config);
    return pending;
  } catch (const std::runtime_error&) {
    return {};
  }
}

}  // namespace llama
