// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Loads checkpoints of one file or of shards.
#include "llama/formats/model_folder.hpp"

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

#include "llama/formats/finite.hpp"
#include "llama/formats/model_folder_files.hpp"
#include "llama/formats/strict_json.hpp"

namespace llama {
namespace {

constexpr std::size_t names_in_message = 5;
constexpr std::size_t compared_at_once = 1 << 16;  // elements
constexpr std::string_view head_name = "lm_head.weight",
                           embedding_name = "model.embed_tokens.weight";
/// The weights of a folder: its files, and the file of each tensor.
struct Weights {
  std::vector<SafetensorsFile> files;
  std::map<std::string, std::size_t, std::less<>> file_of;
};

Weights open_single(const std::filesystem::path& path) {
  Weights weights;
  weights.files.emplace_back(path);
  for (const TensorInfo& tensor : weights.files.front().tensors())
    weights.file_of.emplace(tensor.name, 0);
  return weights;
}

Weights open_shards(const std::filesystem::path& folder, const std::filesystem::path& index_path) {
  const std::string what = fmt::format("'{}'", index_path.string());
  const nlohmann::json index =
      parse_strict_json(read_small_file(index_path, max_index_bytes), what);
  const auto map = index.find("weight_map");
  if (map == index.end() || !map->is_object()) {
    throw std::runtime_error(
        fmt::format("{} must have an object 'weight_map' from tensor to file names, but it has "
                    "none; use the index that belongs to the shards",
                    what));
  }
  Weights weights;
  const std::map<std::string, std::string> checksums = shard_checksums(index);
  std::map<std::string, std::size_t> opened;
  for (const auto& [name, file] : map->items()) {
    const std::string shard = file.is_string() ? file.get<std::string>() : std::string();
    // Only names inside the folder are accepted: an index must not refer to other files of the
    // machine.
    if (shard.empty() || shard == "." || shard == ".." || shard.find('/') != std::string::npos ||
        shard.find('\0') != std::string::npos) {
      throw std::runtime_error(
          fmt::format("{}: 'weight_map' must give the name of a file in the same folder for '{}', "
                      "but it gives {}; correct the index",
                      what, name, file.dump()));
    }
    const auto [entry, is_new] = opened.emplace(shard, weights.files.size());
    if (is_new) weights.files.emplace_back(find_shard(folder / shard, checksums));
    if (weights.files[entry->second].find(name) == nullptr) {
      throw std::runtime_error(
          fmt::format("{}: the tensor '{}' must be in '{}', but that file does not have it; fetch "
                      "the shards that belong to the index",
                      what, name, shard));
    }
    weights.file_of.emplace(name, entry->second);
  }
  for (std::size_t i = 0; i < weights.files.size(); ++i) {
    for (const TensorInfo& tensor : weights.files[i].tensors())
      weights.file_of.emplace(tensor.name, i);
  }
  return weights;
}

Weights open_weights(const std::filesystem::path& folder, const FolderFormat& format) {
  const std::string index = index_name(format);
  if (is_there(folder / format.weights)) return open_single(folder / format.weights);
  if (is_there(folder / index)) return open_shards(folder, folder / index);
  throw std::runtime_error(
      fmt::format("'{}' must contain '{}' or '{}', but it has neither; give a folder in Hugging "
                  "Face's format whose weights are safetensors",
                  folder.string(), format.weights, index));
}

/// Advice for adapters, whose tensors may belong to another model.
const char* for_another_model(const FolderFormat& format) {
  return format.weights == adapter_format.weights ? ", and that the adapter was made for this model"
                                                  : "";
}

bool is_harmless(std::string_view name, bool has_head) {
  return name.ends_with("rotary_emb.inv_freq") || (!has_head && name == head_name);
}

void refuse_extra_tensors(const std::filesystem::path& folder, const Weights& weights,
                          std::span<const NamedTensor> tensors, const FolderFormat& format) {
  std::set<std::string_view> wanted;
  for (const NamedTensor& tensor : tensors) wanted.insert(tensor.name);
  const bool has_head = wanted.contains(head_name);
  std::vector<std::string_view> extra;
  for (const auto& [name, file] : weights.file_of) {
    if (!wanted.contains(name) && !is_harmless(name, has_head)) extra.push_back(name);
  }
  if (extra.empty()) return;
  const std::size_t shown = std::min(extra.size(), names_in_message);
  throw std::runtime_error(fmt::format(
      "the weights in '{}' must have the model's {} tensors and no others, but they also have "
      "{}{}; this trainer would drop them, so {}",
      folder.string(), tensors.size(),
      fmt::join(extra.begin(), extra.begin() + static_cast<std::ptrdiff_t>(shown), ", "),
      extra.size() > shown ? fmt::format(" and {} more", extra.size() - shown) : std::string(),
      format.weights == adapter_format.weights ? "choose an adapter that was made for this model"
                                               : "choose a plain LLaMA model (adapters merged)"));
}

float rounded(float value, DType dtype) {
  if (dtype == DType::bf16) return bfloat16_to_float(float_to_bfloat16(value));
  if (dtype == DType::f16) return half_to_float(float_to_half(value));
  return value;
}

/// Whether two weights are equal when rounded to the narrower of their types.
bool are_copies(const Weights& weights, std::string_view first, std::string_view second) {
  const SafetensorsFile* const files[] = {&weights.files[weights.file_of.find(first)->second],
                                          &weights.files[weights.file_of.find(second)->second]};
  const TensorInfo &a = *files[0]->find(first), &b = *files[1]->find(second);
  if (a.shape != b.shape) return false;
  std::vector<float> of_a, of_b;
  for (std::size_t begin = 0; begin < a.elements(); begin += compared_at_once) {
    of_a.resize(std::min(compared_at_once, a.elements() - begin));
    of_b.resize(of_a.size());
    files[0]->read(first, begin, of_a);
    files[1]->read(second, begin, of_b);
    if (!std::ranges::equal(of_a, of_b, [&](float x, float y) {
          return rounded(x, b.dtype) == rounded(y, a.dtype);
        }))
      return false;
  }
  return true;
}

}  // namespace

std::filesystem::path find_config(const std::filesystem::path& folder, const FolderFormat& format) {
  std::error_code error;
  if (!std::filesystem::is_directory(folder, error)) {
    throw std::runtime_error(fmt::format(
        "'{}' must be a folder with '{}' and '{}', but it is {}; check the path", folder.string(),
        format.config, format.weights, is_there(folder) ? "not a folder" : "not there"));
  }
  return pending_config(folder, format).value_or(folder / format.config);
}

LlamaConfig load_config(const std::filesystem::path& folder,
                        const std::function<void(std::string_view)>& note) {
  LlamaConfig config = read_config(find_config(folder, model_format));
  if (!config.tie_embeddings) return config;
  const Weights weights = open_weights(folder, model_format);
  if (weights.file_of.contains(head_name) && weights.file_of.contains(embedding_name) &&
      !are_copies(weights, head_name, embedding_name)) {
    config.tie_embeddings = false;
    if (note)
      note(
          fmt::format("the config.json of '{}' says 'tie_word_embeddings', but its {} differs from "
                      "the embedding, so it is used as the output layer",
                      folder.string(), head_name));
  }
  return config;
}

DType stored_dtype(const std::filesystem::path& folder) {
  std::map<DType, std::uint64_t> bytes;
  for (const SafetensorsFile& file : open_weights(folder, model_format).files)
    for (const TensorInfo& tensor : file.tensors())
      bytes[tensor.dtype] += tensor.end - tensor.begin;
  const auto most =
      std::ranges::max_element(bytes, {}, [](const auto& entry) { return entry.second; });
  return most != bytes.end() && (most->first == DType::f16 || most->first == DType::bf16)
             ? most->first
             : DType::f32;
}

std::string Companions::text() const {
  std::string names;
  const std::vector<std::string> keys = carried_keys(config);
  if (!keys.empty()) names = fmt::format("{} of config.json", fmt::join(keys, ", "));
  for (const auto& [name, bytes] : files) names += (names.empty() ? "" : ", ") + name;
  return names;
}

bool is_companion(std::string_view name) noexcept {
  return std::ranges::find(companion_names, name) != std::ranges::end(companion_names);
}

std::filesystem::path find_companion(const std::filesystem::path& folder, const std::string& name) {
  const auto path = folder / name;
  if (temporaries_of(path).empty()) return path;
  for (const auto& [temporary, final_path] : pending_companions(folder, model_format))
    if (final_path == path) return temporary;
  return path;
}

Companions load_companions(const std::filesystem::path& folder) {
  Companions companions;
  companions.config = read_small_file(find_config(folder, model_format), max_config_bytes);
  for (const std::string_view name : companion_names) {
    const auto path = find_companion(folder, std::string(name));
    if (is_there(path)) companions.files.emplace(name, read_small_file(path));
  }
  return companions;
}

namespace {

/// The weights of a folder. Throws unless they have exactly these tensors.
Weights open_checked(const std::filesystem::path& folder, std::span<const NamedTensor> tensors,
                     const FolderFormat& format) {
  Weights weights = open_weights(folder, format);
  for (const NamedTensor& tensor : tensors) {
    const auto found = weights.file_of.find(tensor.name);
    if (found == weights.file_of.end()) {
      throw std::runtime_error(
          fmt::format("the weights in '{}' must have the tensor '{}' of shape {}, but they do not; "
                      "check that {} and weights belong together{}",
                      folder.string(), tensor.name, shape_text(tensor.shape), format.config,
                      for_another_model(format)));
    }
    const SafetensorsFile& file = weights.files[found->second];
    const TensorInfo& stored = *file.find(tensor.name);
    if (stored.shape != tensor.shape) {
      throw std::runtime_error(
          fmt::format("'{}': the tensor '{}' must have the shape {}, but it has {}; check that {} "
                      "and weights belong together{}",
                      file.path().string(), tensor.name, shape_text(tensor.shape),
                      shape_text(stored.shape), format.config, for_another_model(format)));
    }
    if (!tensor.take && stored.elements() != tensor.values.size()) {
      throw std::invalid_argument(fmt::format(
          "load_folder: the room for '{}' must be {} values (shape {}), but it is {}; pass the "
          "matching span",
          tensor.name, stored.elements(), shape_text(tensor.shape), tensor.values.size()));
    }
  }
  refuse_extra_tensors(folder, weights, tensors, format);
  return weights;
}

}  // namespace

void check_folder(const std::filesystem::path& folder, std::span<const NamedTensor> tensors,
                  const FolderFormat& format) {
  (void)open_checked(folder, tensors, format);
}

void load_folder(const std::filesystem::path& folder, std::span<const NamedTensor> tensors,
                 const FolderFormat& format) {
  const Weights weights = open_checked(folder, tensors, format);
  for (const NamedTensor& tensor : tensors) {
    const SafetensorsFile& file = weights.files[weights.file_of.find(tensor.name)->second];
    const auto read = [&](std::span<float> values) {
      file.read(tensor.name, values);
      const std::span<const float> loaded(values);
      if (const std::size_t at = first_not_finite(loaded); at < loaded.size())
        throw std::runtime_error(fmt::format(
            "'{}': weights must be finite, but {}; fetch the file again, or use a "
            "model that was saved before its training diverged",
            file.path().string(), not_finite_text(tensor.name, tensor.shape, loaded, at)));
    };
    if (tensor.take) {
      std::vector<float> values(file.find(tensor.name)->elements());
      read(values);
      tensor.take(values);
    } else {
      read(tensor.values);
    }
  }
}

std::optional<std::string> find_metadata(const std::filesystem::path& folder,
                                         const FolderFormat& format, std::string_view key) {
  return metadata_of(folder / format.weights, key);
}

}  // namespace llama
