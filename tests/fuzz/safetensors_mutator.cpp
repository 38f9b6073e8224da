// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Mutations of safetensors files. libFuzzer's own leave the length of a changed header wrong and
// never move a tensor as a whole, so that a reader that forgot to look for holes went unnoticed.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <string_view>
#include <vector>

/// libFuzzer's own mutations.
extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

namespace {

using nlohmann::json;
using Random = std::minstd_rand;

/// The two offsets of each tensor.
std::vector<json*> offsets_of(json& root) {
  std::vector<json*> all;
  if (!root.is_object()) return all;
  for (auto& [name, entry] : root.items()) {
    if (!entry.is_object() || !entry.contains("data_offsets")) continue;
    json& pair = entry["data_offsets"];
    if (pair.is_array() && pair.size() == 2 && pair[0].is_number_unsigned() &&
        pair[1].is_number_unsigned())
      all.push_back(&pair);
  }
  return all;
}

/// Moves a tensor, alone or with all behind it, by a few bytes; the data follow or do not.
std::string with_moved_tensor(const std::string& header, std::string& data, Random& random) {
  json root = json::parse(header, nullptr, false);
  const std::vector<json*> all = offsets_of(root);
  if (all.empty()) return header;
  const json chosen = *all[random() % all.size()];
  const bool alone = random() % 2 == 0, down = random() % 2 == 0;
  const std::uint64_t by = 1 + random() % 8;
  std::uint64_t last = 0;
  for (json* pair : all) {
    if (alone ? *pair == chosen : (*pair)[0] >= chosen[0])
      for (json& offset : *pair) {
        const auto old = offset.get<std::uint64_t>();
        offset = down ? old - std::min(by, old) : old + by;
      }
    last = std::max(last, (*pair)[1].get<std::uint64_t>());
  }
  if (random() % 4 != 0 && last < 4096) data.resize(static_cast<std::size_t>(last));
  return root.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string mutated(std::string text, std::size_t more) {
  const std::size_t size = text.size();
  text.resize(size + more);
  text.resize(LLVMFuzzerMutate(reinterpret_cast<std::uint8_t*>(text.data()), size, text.size()));
  return text;
}

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* bytes, std::size_t size,
                                               std::size_t max_size, unsigned int seed) {
  Random random(seed);
  std::uint64_t length = 0;
  if (size >= sizeof length) std::memcpy(&length, bytes, sizeof length);
  const std::size_t kind = random() % 4;
  if (kind == 0 || size < sizeof length || length > size - sizeof length)
    return LLVMFuzzerMutate(bytes, size, max_size);
  const std::string_view rest(reinterpret_cast<const char*>(bytes) + sizeof length,
                              size - sizeof length);
  std::string header(rest.substr(0, static_cast<std::size_t>(length)));
  std::string data(rest.substr(header.size()));
  header = kind == 1 ? with_moved_tensor(header, data, random)
                     : mutated(std::move(header), max_size > size ? max_size - size : 0);
  length = header.size();
  const std::string file =
      std::string(reinterpret_cast<const char*>(&length), sizeof length) + header + data;
  if (file.size() > max_size) return LLVMFuzzerMutate(bytes, size, max_size);
  std::memcpy(bytes, file.data(), file.size());
  return file.size();
}
