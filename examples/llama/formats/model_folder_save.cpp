// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Saves checkpoints of one file or of shards, with config and companions.
#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <stdexcept>
#include <string_view>
#include <system_error>

#include "llama/formats/atomic_file.hpp"
#include "llama/formats/finite.hpp"
#include "llama/formats/model_folder.hpp"
#include "llama/formats/model_folder_files.hpp"
#include "llama/formats/output_lock.hpp"

namespace llama {
namespace {

/// Groups consecutive tensors into shards of at most `limit` bytes; a larger tensor is a shard of
/// its own.
std::vector<std::span<const TensorToWrite>> shards_of(std::span<const TensorToWrite> tensors,
                                                      DType dtype, std::uint64_t limit) {
  std::vector<std::span<const TensorToWrite>> shards;
  std::size_t first = 0;
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const std::uint64_t own = bytes_of(tensors[i], dtype);
    if (i > first && own > limit - std::min(limit, bytes))
      shards.push_back(tensors.subspan(first, i - first)), first = i, bytes = 0;
    bytes += own;
  }
  shards.push_back(tensors.subspan(first));
  return shards;
}

/// Removes temporary files of killed saves, if their processes are known to have ended. Keeps
/// temporary companions of a model when an adapter is saved in the model's folder, because they may
/// be pending.
void remove_leftovers(const std::filesystem::path& folder, const FolderFormat& format) {
  if (!OutputLock::held_here(Output::folder, folder)) return;
  const bool of_model = format.weights == model_format.weights;
  remove_temporaries(folder, [&](std::string_view name) {
    return name == format.config || name == format.weights || name == index_name(format) ||
           is_shard_name(format, name) || (of_model && is_companion(name));
  });
}

/// Removes shards of other saves and, if this save has no shards, their index. Files that cannot be
/// removed are ignored.
void remove_other_shards(const std::filesystem::path& folder, const FolderFormat& format,
                         std::size_t count) {
  std::error_code ignored;
  if (count == 0) std::filesystem::remove(folder / index_name(format), ignored);
  std::set<std::string> own;
  for (std::size_t i = 1; i <= count; ++i) own.insert(shard_name(format, i, count));
  std::vector<std::filesystem::path> others;
  std::filesystem::directory_iterator walk(folder, ignored);
  for (; !ignored && walk != std::filesystem::directory_iterator(); walk.increment(ignored)) {
    const std::string name = walk->path().filename().string();
    if (is_shard_name(format, name) && !own.contains(name)) others.push_back(walk->path());
  }
  for (const std::filesystem::path& path : others) std::filesystem::remove(path, ignored);
}

/// Files that are published after the weights: the companions, then the config.
using Following = std::deque<AtomicFile>;

void keep_temporaries(Following& files, bool keep) {
  for (AtomicFile& file : files) file.keep_temporary(keep);
}

/// See save_folder. The metadata `embed` identifies the files that are published after the weights.
void save_single(const std::filesystem::path& folder, const FolderFormat& format,
                 std::span<const TensorToWrite> tensors, DType dtype,
                 std::map<std::string, std::string> metadata,
                 const std::map<std::string, std::string>& embed, Following& following) {
  metadata.insert(embed.begin(), embed.end());
  AtomicFile weights(folder / format.weights);
  write_safetensors(weights, tensors, dtype, metadata);
  weights.finish();
  // From the rename of the weights on, the other temporary files must be kept on any failure; see
  // pending_config.
  keep_temporaries(following, true);
  try {
    weights.publish();
  } catch (...) {
    keep_temporaries(following, weights.published());
    throw;
  }
  for (AtomicFile& file : following) file.publish();
  remove_other_shards(folder, format, 0);
}

void save_shards(const std::filesystem::path& folder, const FolderFormat& format,
                 std::span<const std::span<const TensorToWrite>> shards, DType dtype,
                 const std::map<std::string, std::string>& metadata,
                 const std::map<std::string, std::string>& embed, Following& following) {
  std::deque<AtomicFile> files;
  // Not ordered_json, which searches all members for each new one.
  nlohmann::json checksums = nlohmann::json::object(), map = nlohmann::json::object();
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string name = shard_name(format, i + 1, shards.size());
    AtomicFile& file = files.emplace_back(folder / name);
    write_safetensors(file, shards[i], dtype, metadata);
    file.finish();
    checksums[name] = SafetensorsFile(file.temporary()).own_checksum();
    for (const TensorToWrite& tensor : shards[i])
      map[tensor.name] = name, bytes += bytes_of(tensor, dtype);
  }
  nlohmann::ordered_json index;
  index["metadata"] = {{"total_size", bytes}};
  for (const auto& [key, text] : embed) index["metadata"][key] = text;
  index["metadata"][shards_key] = checksums;
  index["weight_map"] = map;
  AtomicFile index_file(folder / index_name(format));
  index_file.write(index.dump(2) + "\n");
  index_file.finish();

  const auto keep = [&](bool temporaries) {
    keep_temporaries(files, temporaries), keep_temporaries(following, temporaries);
  };
  keep(true);
  try {
    index_file.publish();
  } catch (...) {
    keep(index_file.published());
    throw;
  }
  for (AtomicFile& file : files) file.publish();
  remove_durably(folder / format.weights);
  for (AtomicFile& file : following) file.publish();
  remove_other_shards(folder, format, shards.size());
}

}  // namespace

void prepare_folder(const std::filesystem::path& folder, const FolderFormat& format) {
  create_folder(folder);
  check_writable(folder / format.weights);
}

void save_folder(const std::filesystem::path& folder, const FolderFormat& format,
                 const std::string& config_text, std::span<const NamedTensor> tensors, DType dtype,
                 std::map<std::string, std::string> metadata, std::uint64_t shard_bytes,
                 const std::map<std::string, std::string>& companions) {
  prepare_folder(folder, format);
  std::optional<OutputLock> lock;  // empty if the run holds it
  if (!OutputLock::held_here(Output::folder, folder)) lock.emplace(Output::folder, folder);
  metadata["format"] = "pt";
  std::vector<TensorToWrite> to_write;
  to_write.reserve(tensors.size());
  for (const NamedTensor& tensor : tensors) {
    const auto require_finite = [&folder, &tensor](std::span<const float> values) {
      if (const std::size_t at = first_not_finite(values); at < values.size())
        throw std::runtime_error(
            fmt::format("weights written to '{}' must be finite, but {}; the folder is unchanged: "
                        "train again from finite weights with a lower --learning-rate",
                        folder.string(), not_finite_text(tensor.name, tensor.shape, values, at)));
    };
    require_finite(tensor.values);
    TensorToWrite& one = to_write.emplace_back();
    one.name = tensor.name, one.shape = tensor.shape, one.values = tensor.values;
    if (tensor.make)
      one.make = [&tensor, require_finite](std::span<float> values) {
        tensor.make(values);
        require_finite(values);
      };
  }

  // Completes an interrupted save first, because the cleanup below removes the files that it needs.
  for (const auto& [pending, path] : pending_files(folder, format)) rename_durably(pending, path);
  remove_leftovers(folder, format);

  Following following;
  const auto write = [&](const std::filesystem::path& path, const std::string& text) {
    if (has_text(path, text)) return;
    AtomicFile& file = following.emplace_back(path);
    file.write(text);
    file.finish();
  };
  nlohmann::json checksums = nlohmann::json::object();
  for (const auto& [name, bytes] : companions) {
    write(folder / name, bytes);
    checksums[name] = checksum_text(bytes);
  }
  write(folder / format.config, config_text);
  std::map<std::string, std::string> embed{{embedded_config_key, config_text}};
  if (!companions.empty()) embed[companions_key] = checksums.dump();
  const auto shards = shards_of(to_write, dtype, shard_bytes);
  if (shards.size() == 1)
    save_single(folder, format, to_write, dtype, std::move(metadata), embed, following);
  else
    save_shards(folder, format, shards, dtype, metadata, embed, following);
}

void save_model_folder(const std::filesystem::path& folder, const LlamaConfig& config,
                       std::span<const NamedTensor> tensors, DType dtype, std::uint64_t shard_bytes,
                       const Companions& companions) {
  const char* const name = dtype == DType::bf16  ? "bfloat16"
                           : dtype == DType::f16 ? "float16"
                                                 : "float32";
  save_folder(folder, model_format, config_json(config, name, companions.config), tensors, dtype,
              {}, shard_bytes, companions.files);
}

}  // namespace llama
