// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// One file or shards, loaded and saved.
#include "llama/formats/checkpoint.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

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
#include "llama/formats/crc32c.hpp"
#include "llama/formats/output_lock.hpp"
#include "llama/formats/strict_json.hpp"
#include "llama/model/finite.hpp"

namespace llama {
namespace {

constexpr const char* embedded_config_key = "dropbp.config";
constexpr const char* companions_key = "dropbp.files";  // JSON from name to checksum of bytes
constexpr const char* shards_key =
    "dropbp.shards";  // in an index's metadata: the header's checksum of each shard
constexpr std::size_t names_in_message = 5;
constexpr std::size_t compared_at_once = 1 << 16;    // elements
constexpr std::size_t max_index_bytes = 32'000'000;  // twice that of the largest models
constexpr std::string_view head_name = "lm_head.weight",
                           embedding_name = "model.embed_tokens.weight";
/// As Hugging Face names them: what text is made with, and turned into ids and back by.
constexpr std::string_view companion_names[] = {"generation_config.json",
                                                "tokenizer.json",
                                                "tokenizer_config.json",
                                                "special_tokens_map.json",
                                                "added_tokens.json",
                                                "vocab.json",
                                                "merges.txt",
                                                "tokenizer.model",
                                                "chat_template.json",
                                                "chat_template.jinja"};

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
  for (const TensorInfo& tensor : weights.files.front().tensors())
    weights.file_of.emplace(tensor.name, 0);
  return weights;
}

/// The temporary files that were to become `path`.
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

/// Shard `number` of `count`, both from 1: "model-00001-of-00002.safetensors".
std::string shard_name(const FolderFormat& format, std::size_t number, std::size_t count) {
  const std::filesystem::path weights(format.weights);
  return fmt::format("{}-{:05}-of-{:05}{}", weights.stem().string(), number, count,
                     weights.extension().string());
}

/// Whether it is the name of any shard.
bool is_shard_name(const FolderFormat& format, std::string_view name) {
  const std::string pattern = shard_name(format, 0, 0);
  return std::ranges::equal(
      name, pattern, [](char c, char p) { return p == '0' ? c >= '0' && c <= '9' : c == p; });
}

/// What an index says of its shards' checksums: those that were saved here, else none.
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

bool has_checksum(const std::filesystem::path& path, const std::string& checksum) {
  return is_there(path) && SafetensorsFile(path).own_checksum() == checksum;
}

/// A complete shard whose save was killed before its rename; others were cut while they were
/// written.
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

/// The file of a shard: the index is renamed before its shards, so that one may still have the name
/// of before.
std::filesystem::path find_shard(const std::filesystem::path& path,
                                 const std::map<std::string, std::string>& checksums) {
  const auto checksum = checksums.find(path.filename().string());
  if (checksum == checksums.end() || has_checksum(path, checksum->second)) return path;
  if (const auto pending = pending_shard(path, checksum->second)) return *pending;
  if (!is_there(path)) return path;  // opening it says so
  throw std::runtime_error(
      fmt::format("'{}' must be the shard that its index was saved with, of checksum {}, but it is "
                  "another one; fetch the shards that belong to the index",
                  path.string(), checksum->second));
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
    // Only names inside the folder: an index must not be able to point at other files of the
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

/// An adapter's tensors can also be right in themselves.
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

std::optional<std::string> metadata_of(const std::filesystem::path& weights, std::string_view key) {
  if (!is_there(weights)) return std::nullopt;
  const SafetensorsFile file(weights);
  const auto entry = file.metadata().find(std::string(key));
  return entry == file.metadata().end() ? std::nullopt : std::optional(entry->second);
}

/// None where one file has the weights, or there are none.
std::optional<nlohmann::json> read_index(const std::filesystem::path& folder,
                                         const FolderFormat& format) {
  const std::filesystem::path path = folder / index_name(format);
  if (is_there(folder / format.weights) || !is_there(path)) return std::nullopt;
  return parse_strict_json(read_small_file(path, max_index_bytes),
                           fmt::format("'{}'", path.string()));
}

/// What save_folder put into the weights under that key, if any.
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

bool has_text(const std::filesystem::path& path, std::string_view text) {
  std::error_code error;
  return std::filesystem::is_regular_file(path, error) &&
         std::filesystem::file_size(path, error) == text.size() && read_small_file(path) == text;
}

/// Of a save that was cut between its two renames: the weights' own config, complete in a temporary
/// file of the config. A config that differs from the weights without that file was edited by hand
/// and counts.
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

bool has_bytes_of(const std::filesystem::path& path, const std::string& checksum) {
  std::error_code error;
  return std::filesystem::is_regular_file(path, error) &&
         checksum_text(read_small_file(path)) == checksum;
}

/// The companions that were saved with the weights and still have temporary names, as (temporary
/// file, name).
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

/// The files of a save that was cut between its renames that still are to be renamed, as
/// (temporary file, name). An error while looking (weights damaged) means there is nothing worth
/// completing.
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

/// Consecutive tensors of at most `limit` bytes together, or one alone.
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

/// What killed saves left half-written, where it is known that they are dead. An adapter's save
/// knows nothing of the companions of a model in its folder, which may still be pending.
void remove_leftovers(const std::filesystem::path& folder, const FolderFormat& format) {
  if (!OutputLock::held_here(Output::folder, folder)) return;
  const bool of_model = format.weights == model_format.weights;
  remove_temporaries(folder, [&](std::string_view name) {
    return name == format.config || name == format.weights || name == index_name(format) ||
           is_shard_name(format, name) || (of_model && is_companion(name));
  });
}

/// Shards of other saves, and, where there are none now, their index. What cannot be removed does
/// no harm.
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

/// Files that are written but not published, which follow the weights: companions, then the config.
using Following = std::deque<AtomicFile>;

void keep_temporaries(Following& files, bool keep) {
  for (AtomicFile& file : files) file.keep_temporary(keep);
}

/// See save_folder. `embed` are the entries by which what follows is recognised.
void save_single(const std::filesystem::path& folder, const FolderFormat& format,
                 std::span<const TensorToWrite> tensors, DType dtype,
                 std::map<std::string, std::string> metadata,
                 const std::map<std::string, std::string>& embed, Following& following) {
  metadata.insert(embed.begin(), embed.end());
  AtomicFile weights(folder / format.weights);
  write_safetensors(weights, tensors, dtype, metadata);
  weights.finish();
  // Once the weights are renamed the temporary files of what follows must survive whatever fails,
  // see pending_config.
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
  // Not ordered ones, which search all members for each new one.
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

float rounded(float value, DType dtype) {
  if (dtype == DType::bf16) return bfloat16_to_float(float_to_bfloat16(value));
  if (dtype == DType::f16) return half_to_float(float_to_half(value));
  return value;
}

/// Whether two weights are the same numbers, as far as the narrower of their types tells.
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
          fmt::format("the output layer of '{}' is not its embedding, though its config.json says "
                      "'tie_word_embeddings': its own {} is another one, so that is used",
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

/// The weights of a folder, found to have all of these tensors and no others.
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
          "load_checkpoint: the room for '{}' must be {} values (shape {}), but it is {}; pass the "
          "matching span",
          tensor.name, stored.elements(), shape_text(tensor.shape), tensor.values.size()));
    }
  }
  refuse_extra_tensors(folder, weights, tensors, format);
  return weights;
}

}  // namespace

void check_checkpoint(const std::filesystem::path& folder, std::span<const NamedTensor> tensors,
                      const FolderFormat& format) {
  (void)open_checked(folder, tensors, format);
}

void load_checkpoint(const std::filesystem::path& folder, std::span<const NamedTensor> tensors,
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

void prepare_checkpoint_folder(const std::filesystem::path& folder, const FolderFormat& format) {
  create_folder(folder);
  check_writable(folder / format.weights);
}

void save_folder(const std::filesystem::path& folder, const FolderFormat& format,
                 const std::string& config_text, std::span<const NamedTensor> tensors, DType dtype,
                 std::map<std::string, std::string> metadata, std::uint64_t shard_bytes,
                 const std::map<std::string, std::string>& companions) {
  prepare_checkpoint_folder(folder, format);
  std::optional<OutputLock> lock;  // unless the run has it
  if (!OutputLock::held_here(Output::folder, folder)) lock.emplace(Output::folder, folder);
  metadata["format"] = "pt";
  std::vector<TensorToWrite> to_write;
  to_write.reserve(tensors.size());
  for (const NamedTensor& tensor : tensors) {
    const auto require_finite = [&folder, &tensor](std::span<const float> values) {
      if (const std::size_t at = first_not_finite(values); at < values.size())
        throw std::runtime_error(
            fmt::format("what is written to '{}' must be finite, but {}; the folder stays as it "
                        "was: train again from finite weights with a lower --learning-rate",
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

  // First, or removing what was left would take away what makes the folder loadable.
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

void save_checkpoint(const std::filesystem::path& folder, const LlamaConfig& config,
                     std::span<const NamedTensor> tensors, DType dtype, std::uint64_t shard_bytes,
                     const Companions& companions) {
  const char* const name = dtype == DType::bf16  ? "bfloat16"
                           : dtype == DType::f16 ? "float16"
                                                 : "float32";
  save_folder(folder, model_format, config_json(config, name, companions.config), tensors, dtype,
              {}, shard_bytes, companions.files);
}

}  // namespace llama
