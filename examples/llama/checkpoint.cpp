// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// One file or shards to load from; one file to save to.
#include "checkpoint.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <stdexcept>
#include <string_view>
#include <system_error>

#include "atomic_file.hpp"
#include "strict_json.hpp"

namespace llama {
namespace {

constexpr const char* embedded_config_key = "dropbp.config";
constexpr std::size_t names_in_message = 5;

/// The weights of a folder: its files and, by tensor name, the file that counts.
struct Weights {
  std::vector<SafetensorsFile> files;
  std::map<std::string, std::size_t, std::less<>> file_of;
};

bool is_there(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

Weights open_single(const std::filesystem::path& path) {
  Weights weights;
  weights.files.emplace_back(path);
  for (const TensorInfo& tensor : weights.files.front().tensors()) weights.file_of.emplace(tensor.name, 0);
  return weights;
}

Weights open_shards(const std::filesystem::path& folder, const std::filesystem::path& index_path) {
  const std::string what = fmt::format("'{}'", index_path.string());
  const nlohmann::json index = parse_strict_json(read_small_file(index_path), what);
  const auto map = index.find("weight_map");
  if (map == index.end() || !map->is_object()) {
    throw std::runtime_error(
        fmt::format("{} must have an object 'weight_map' from tensor to file names, but it has none; use the index "
                    "that belongs to the shards",
                    what));
  }
  Weights weights;
  std::map<std::string, std::size_t> opened;
  for (const auto& [name, file] : map->items()) {
    const std::string shard = file.is_string() ? file.get<std::string>() : std::string();
    // Only names inside the folder: an index must not be able to point at other files of the machine.
    if (shard.empty() || shard == "." || shard == ".." || shard.find('/') != std::string::npos ||
        shard.find('\0') != std::string::npos) {
      throw std::runtime_error(
          fmt::format("{}: 'weight_map' must give the name of a file in the same folder for '{}', but it gives {}; "
                      "correct the index",
                      what, name, file.dump()));
    }
    const auto [entry, is_new] = opened.emplace(shard, weights.files.size());
    if (is_new) weights.files.emplace_back(folder / shard);
    if (weights.files[entry->second].find(name) == nullptr) {
      throw std::runtime_error(
          fmt::format("{}: the tensor '{}' must be in '{}', but that file does not have it; fetch the shards that "
                      "belong to the index",
                      what, name, shard));
    }
    weights.file_of.emplace(name, entry->second);
  }
  for (std::size_t i = 0; i < weights.files.size(); ++i) {
    for (const TensorInfo& tensor : weights.files[i].tensors()) weights.file_of.emplace(tensor.name, i);
  }
  return weights;
}

Weights open_weights(const std::filesystem::path& folder, const FolderFormat& format) {
  const std::string index_name = fmt::format("{}.index.json", format.weights);
  if (is_there(folder / format.weights)) return open_single(folder / format.weights);
  if (is_there(folder / index_name)) return open_shards(folder, folder / index_name);
  throw std::runtime_error(
      fmt::format("'{}' must contain '{}' or '{}', but it has neither; give a folder in Hugging Face's format whose weights "
                  "are safetensors",
                  folder.string(), format.weights, index_name));
}

/// An adapter's tensors can also be right in themselves.
const char* for_another_model(const FolderFormat& format) {
  return format.weights == adapter_format.weights ? ", and that the adapter was made for this model" : "";
}

bool is_harmless(std::string_view name, bool has_head) {
  return name.ends_with("rotary_emb.inv_freq") || (!has_head && name == "lm_head.weight");
}

void refuse_extra_tensors(const std::filesystem::path& folder, const Weights& weights,
                          std::span<const NamedTensor> tensors, const FolderFormat& format) {
  std::set<std::string_view> wanted;
  for (const NamedTensor& tensor : tensors) wanted.insert(tensor.name);
  const bool has_head = wanted.contains("lm_head.weight");
  std::vector<std::string_view> extra;
  for (const auto& [name, file] : weights.file_of) {
    if (!wanted.contains(name) && !is_harmless(name, has_head)) extra.push_back(name);
  }
  if (extra.empty()) return;
  const std::size_t shown = std::min(extra.size(), names_in_message);
  throw std::runtime_error(
      fmt::format("the weights in '{}' must have the model's {} tensors and no others, but they also have {}{}; this "
                  "trainer would drop them, so {}",
                  folder.string(), tensors.size(),
                  fmt::join(extra.begin(), extra.begin() + static_cast<std::ptrdiff_t>(shown), ", "),
                  extra.size() > shown ? fmt::format(" and {} more", extra.size() - shown) : std::string(),
                  format.weights == adapter_format.weights ? "choose an adapter that was made for this model"
                                                           : "choose a plain LLaMA model (adapters merged)"));
}

std::optional<std::string> metadata_of(const std::filesystem::path& weights, std::string_view key) {
  if (!is_there(weights)) return std::nullopt;
  const SafetensorsFile file(weights);
  const auto entry = file.metadata().find(std::string(key));
  return entry == file.metadata().end() ? std::nullopt : std::optional(entry->second);
}

/// The config that save_folder put into the weights, if any.
std::optional<std::string> embedded_config(const std::filesystem::path& weights) {
  return metadata_of(weights, embedded_config_key);
}

bool has_text(const std::filesystem::path& path, std::string_view text) {
  std::error_code error;
  return std::filesystem::is_regular_file(path, error) && std::filesystem::file_size(path, error) == text.size() &&
         read_small_file(path) == text;
}

std::filesystem::path pending_config(const std::filesystem::path& folder, const FolderFormat& format) {
  std::filesystem::path pending = folder / format.config;
  pending += ".tmp";
  return pending;
}

/// A save that was cut between its two renames: the weights' own config is complete in the config's .tmp. A config that
/// differs from the weights without that file was edited by hand and counts.
bool has_interrupted_save(const std::filesystem::path& folder, const FolderFormat& format) {
  if (!is_there(pending_config(folder, format))) return false;
  const auto embedded = embedded_config(folder / format.weights);
  return embedded && has_text(pending_config(folder, format), *embedded);
}

/// An error while looking (weights damaged) means there is nothing worth completing.
bool can_complete_interrupted_save(const std::filesystem::path& folder, const FolderFormat& format) {
  try {
    return has_interrupted_save(folder, format);
  } catch (const std::runtime_error&) {
    return false;
  }
}

}  // namespace

std::filesystem::path find_config(const std::filesystem::path& folder, const FolderFormat& format) {
  std::error_code error;
  if (!std::filesystem::is_directory(folder, error)) {
    throw std::runtime_error(fmt::format("'{}' must be a folder with '{}' and '{}', but it is {}; check the path",
                                         folder.string(), format.config, format.weights,
                                         is_there(folder) ? "not a folder" : "not there"));
  }
  return has_interrupted_save(folder, format) ? pending_config(folder, format) : folder / format.config;
}

LlamaConfig load_config(const std::filesystem::path& folder) { return read_config(find_config(folder, model_format)); }

namespace {

/// The weights of a folder, found to have all of these tensors and no others.
Weights open_checked(const std::filesystem::path& folder, std::span<const NamedTensor> tensors, const FolderFormat& format) {
  Weights weights = open_weights(folder, format);
  for (const NamedTensor& tensor : tensors) {
    const auto found = weights.file_of.find(tensor.name);
    if (found == weights.file_of.end()) {
      throw std::runtime_error(
          fmt::format("the weights in '{}' must have the tensor '{}' of shape {}, but they do not; check that "
                      "{} and weights belong together{}",
                      folder.string(), tensor.name, shape_text(tensor.shape), format.config,
                      for_another_model(format)));
    }
    const SafetensorsFile& file = weights.files[found->second];
    const TensorInfo& stored = *file.find(tensor.name);
    if (stored.shape != tensor.shape) {
      throw std::runtime_error(
          fmt::format("'{}': the tensor '{}' must have the shape {}, but it has {}; check that {} and weights "
                      "belong together{}",
                      file.path().string(), tensor.name, shape_text(tensor.shape), shape_text(stored.shape),
                      format.config, for_another_model(format)));
    }
    if (!tensor.take && stored.elements() != tensor.values.size()) {
      throw std::invalid_argument(fmt::format(
          "load_checkpoint: the room for '{}' must be {} values (shape {}), but it is {}; pass the matching span",
          tensor.name, stored.elements(), shape_text(tensor.shape), tensor.values.size()));
    }
  }
  refuse_extra_tensors(folder, weights, tensors, format);
  return weights;
}

}  // namespace

void check_checkpoint(const std::filesystem::path& folder, std::span<const NamedTensor> tensors, const FolderFormat& format) {
  (void)open_checked(folder, tensors, format);
}

void load_checkpoint(const std::filesystem::path& folder, std::span<const NamedTensor> tensors,
                     const FolderFormat& format) {
  const Weights weights = open_checked(folder, tensors, format);
  for (const NamedTensor& tensor : tensors) {
    const SafetensorsFile& file = weights.files[weights.file_of.find(tensor.name)->second];
    if (tensor.take) {
      std::vector<float> values(file.find(tensor.name)->elements());
      file.read(tensor.name, values);
      tensor.take(values);
    } else {
      file.read(tensor.name, tensor.values);
    }
  }
}

std::optional<std::string> find_metadata(const std::filesystem::path& folder, const FolderFormat& format, std::string_view key) {
  return metadata_of(folder / format.weights, key);
}

void prepare_checkpoint_folder(const std::filesystem::path& folder, const FolderFormat& format) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (!std::filesystem::is_directory(folder)) {
    throw std::runtime_error(fmt::format("'{}' must be a folder that can be created, but {}; choose another one",
                                         folder.string(),
                                         error ? error.message() : std::string("something else has that name")));
  }
  check_writable(folder / format.weights);
}

void save_folder(const std::filesystem::path& folder, const FolderFormat& format, const std::string& config_text,
                 std::span<const NamedTensor> tensors, DType dtype, std::map<std::string, std::string> metadata) {
  prepare_checkpoint_folder(folder, format);
  metadata["format"] = "pt";
  metadata[embedded_config_key] = config_text;
  std::vector<TensorToWrite> to_write;
  to_write.reserve(tensors.size());
  for (const NamedTensor& tensor : tensors) to_write.push_back({tensor.name, tensor.shape, tensor.values, tensor.make});

  // First, or removing the old .tmp below would take away what makes the folder loadable.
  if (can_complete_interrupted_save(folder, format))
    rename_durably(pending_config(folder, format), folder / format.config);

  std::optional<AtomicFile> config_file;
  if (!has_text(folder / format.config, config_text)) {
    config_file.emplace(folder / format.config);
    config_file->write(config_text);
    config_file->finish();
  }
  AtomicFile weights_file(folder / format.weights);
  write_safetensors(weights_file, to_write, dtype, metadata);
  weights_file.finish();
  // Once the weights are renamed the config's .tmp must survive whatever fails, see has_interrupted_save.
  if (config_file) config_file->keep_temporary(true);
  try {
    weights_file.publish();
  } catch (...) {
    if (config_file) config_file->keep_temporary(weights_file.published());
    throw;
  }
  if (config_file) config_file->publish();
}

void save_checkpoint(const std::filesystem::path& folder, const LlamaConfig& config,
                     std::span<const NamedTensor> tensors, DType dtype) {
  const char* const name = dtype == DType::bf16 ? "bfloat16" : dtype == DType::f16 ? "float16" : "float32";
  save_folder(folder, model_format, config_json(config, name), tensors, dtype);
}

}  // namespace llama
