// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The index of a model's shards, model.safetensors.index.json: the one that was written is
// accepted, others are or are refused; every tensor of an accepted one has its values.
#include <fstream>
#include <string>
#include <vector>

#include "fuzz.hpp"
#include "llama/formats/model_folder.hpp"

namespace {

constexpr std::size_t tensors = 3;

/// Three tensors in a shard each, with room for what is read.
struct Model {
  Model() {
    std::vector<llama::NamedTensor> saved;
    for (std::size_t i = 0; i < tensors; ++i) {
      written[i] = {static_cast<float>(i), 0.5f};
      const std::string name(1, static_cast<char>('a' + i));
      saved.push_back({.name = name, .shape = {2}, .values = written[i]});
      loaded.push_back({.name = name, .shape = {2}, .values = read[i]});
    }
    llama::save_folder(folder.path(), llama::model_format, "{}", saved, llama::DType::f32, {}, 8);
    fuzz::require(std::filesystem::exists(index()), "one shard for all tensors");
    load();
  }
  void load() {
    for (auto& values : read) values = {-1.0f, -1.0f};
    llama::load_folder(folder.path(), loaded);
    for (std::size_t i = 0; i < tensors; ++i)
      fuzz::require(read[i] == written[i], "a tensor has other values");
  }
  [[nodiscard]] std::string index() const {
    return folder.path() + "/model.safetensors.index.json";
  }

  fuzz::TemporaryFolder folder;
  std::vector<float> written[tensors];
  std::vector<float> read[tensors] = {{0, 0}, {0, 0}, {0, 0}};
  std::vector<llama::NamedTensor> loaded;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Model model;
  std::ofstream(model.index(), std::ios::binary) << fuzz::text_of(data, size);
  fuzz::accepts<std::runtime_error>([&] { model.load(); });
  return 0;
}
