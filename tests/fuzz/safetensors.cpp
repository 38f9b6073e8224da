// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The safetensors reader against a second one that is slow and plain: both accept the same files,
// with the same tensors and values.
#include "llama/formats/safetensors.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "fuzz.hpp"

namespace {

using nlohmann::json;

struct Tensor {
  std::string dtype;
  std::vector<std::uint64_t> shape;
  std::uint64_t begin = 0, end = 0;
  bool operator==(const Tensor&) const = default;
};
using Tensors = std::map<std::string, Tensor>;

struct Refused {};

void need(bool holds) {
  if (!holds) throw Refused();
}

/// Bit by bit, from the polynomial.
std::uint32_t plain_crc32c(std::string_view bytes) {
  std::uint32_t crc = ~0u;
  for (const char c : bytes) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 1u) != 0 ? crc >> 1 ^ 0x82f63b78u : crc >> 1;
  }
  return ~crc;
}

std::string hexadecimal(std::uint32_t number) {
  char text[9];
  std::snprintf(text, sizeof text, "%08x", number);
  return text;
}

/// nlohmann's parser into a tree, with a look at every key and at the depth.
json parse_header(std::string_view text) {
  need(!text.empty() && text.front() == '{' && text.find('\0') == text.npos);
  std::vector<std::set<std::string>> keys;
  const json::parser_callback_t look = [&](int depth, json::parse_event_t event, json& value) {
    if (event == json::parse_event_t::object_start || event == json::parse_event_t::array_start)
      need(depth < 4);
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key)
      need(keys.back().insert(value.get<std::string>()).second);
    return true;
  };
  try {
    return json::parse(text, look);
  } catch (const json::exception&) {
    throw Refused();
  }
}

std::uint64_t whole(const json& number) {
  need(number.is_number_unsigned());
  return number.get<std::uint64_t>();
}

__extension__ using Wide = unsigned __int128;

/// Bytes of the elements, if they are a whole number below 2^64 at every step.
std::uint64_t bytes_of(const Tensor& tensor) {
  const std::map<std::string, unsigned> bits{
      {"BOOL", 8}, {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
      {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"I16", 16},
      {"U16", 16}, {"F16", 16},    {"BF16", 16},   {"I32", 32},    {"U32", 32},
      {"F32", 32}, {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64}};
  need(bits.contains(tensor.dtype));
  Wide product = 1;
  const auto multiply = [&](std::uint64_t factor) {
    product *= factor;
    need(product >> 64 == 0);
  };
  for (const std::uint64_t size : tensor.shape) multiply(size);
  multiply(bits.at(tensor.dtype));
  need(product % 8 == 0);
  return static_cast<std::uint64_t>(product / 8);
}

Tensor parse_tensor(const json& entry) {
  need(entry.is_object() && entry.contains("dtype") && entry.contains("shape") &&
       entry.contains("data_offsets"));
  need(entry["dtype"].is_string() && entry["shape"].is_array());
  need(entry["data_offsets"].is_array() && entry["data_offsets"].size() == 2);
  Tensor tensor{entry["dtype"].get<std::string>(),
                {},
                whole(entry["data_offsets"][0]),
                whole(entry["data_offsets"][1])};
  for (const json& size : entry["shape"]) {
    tensor.shape.push_back(whole(size));
    need(tensor.shape.back() >> 63 == 0);
  }
  need(tensor.begin <= tensor.end && bytes_of(tensor) == tensor.end - tensor.begin);
  return tensor;
}

/// Each byte of the data in exactly one tensor; empty tensors at a boundary.
void check_tiling(const Tensors& tensors, std::uint64_t data_bytes) {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> spans;
  std::set<std::uint64_t> boundaries{0};
  for (const auto& [name, tensor] : tensors) {
    boundaries.insert(tensor.end);
    if (tensor.begin < tensor.end) spans.emplace_back(tensor.begin, tensor.end);
  }
  std::ranges::sort(spans);
  std::uint64_t at = 0;
  std::set<std::uint64_t> reached{0};
  for (const auto& [begin, end] : spans) {
    need(begin == at);
    reached.insert(at = end);
  }
  need(at == data_bytes);
  for (const auto& [name, tensor] : tensors) need(reached.contains(tensor.begin));
}

void check_checksums(std::string_view file, std::string_view header, const json& metadata,
                     const Tensors& tensors) {
  if (!metadata.contains("dropbp.crc32c")) return;
  const std::string own = metadata["dropbp.crc32c"].get<std::string>();
  const std::string marked = "\"dropbp.crc32c\":\"";
  const std::size_t at = header.find(marked);
  need(at != header.npos && at + marked.size() + 8 <= header.size());
  std::string blank(file.substr(0, 8 + header.size()));
  blank.replace(8 + at + marked.size(), 8, 8, '0');
  need(own == hexadecimal(plain_crc32c(blank)));
  for (const auto& [name, tensor] : tensors) {
    const std::string key = "dropbp.crc32c." + name;
    need(metadata.contains(key));
    const std::string sum = metadata[key].get<std::string>();
    need(sum.size() == 8 && sum.find_first_not_of("0123456789abcdef") == sum.npos);
  }
}

/// The tensors of a file, or Refused.
Tensors plain_read(std::string_view file) {
  need(file.size() >= 8);
  std::uint64_t length = 0;
  for (int i = 7; i >= 0; --i)
    length = length << 8 | static_cast<unsigned char>(file[static_cast<std::size_t>(i)]);
  need(length <= 100'000'000 && length <= file.size() - 8);
  const std::string_view header = file.substr(8, static_cast<std::size_t>(length));
  const json root = parse_header(header);
  json metadata = json::object();
  Tensors tensors;
  for (const auto& [name, entry] : root.items()) {
    if (name != "__metadata__") {
      tensors[name] = parse_tensor(entry);
      continue;
    }
    need(entry.is_object());
    for (const auto& [key, value] : entry.items()) need(value.is_string());
    metadata = entry;
  }
  check_tiling(tensors, file.size() - 8 - length);
  check_checksums(file, header, metadata, tensors);
  return tensors;
}

Tensor as_plain(const llama::TensorInfo& info) {
  Tensor tensor{std::string(llama::dtype_name(info.dtype)), {}, info.begin, info.end};
  for (const std::ptrdiff_t size : info.shape)
    tensor.shape.push_back(static_cast<std::uint64_t>(size));
  return tensor;
}

/// F32 as the file has them; the other types are read without a second opinion.
void compare_values(const llama::SafetensorsFile& file, const llama::TensorInfo& info,
                    std::string_view data, bool checked) {
  std::string bytes(static_cast<std::size_t>(info.end - info.begin), '\0');
  const std::string_view own = data.substr(static_cast<std::size_t>(info.begin), bytes.size());
  const bool read = fuzz::accepts<std::runtime_error>([&] {
    file.read_bytes(info.name, std::as_writable_bytes(std::span(bytes)));
    fuzz::require(bytes == own, "bytes of a tensor differ");
  });
  fuzz::require(read || checked, "bytes of a tensor without a checksum must be readable");
  std::vector<float> values(info.elements());
  const bool numbers = fuzz::accepts<std::runtime_error>([&] { file.read(info.name, values); });
  if (numbers && info.dtype == llama::DType::f32)
    fuzz::require(values.empty() || std::memcmp(values.data(), own.data(), own.size()) == 0,
                  "floats of a tensor differ");
  std::vector<std::int32_t> ids(info.elements());
  fuzz::accepts<std::runtime_error>([&] { file.read(info.name, ids); });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::MemoryFile memory;
  const std::string_view bytes = fuzz::text_of(data, size);
  memory.write(bytes);
  std::optional<Tensors> expected;
  try {
    expected = plain_read(bytes);
  } catch (const Refused&) {
  }
  std::optional<llama::SafetensorsFile> file;
  std::string reason;
  try {
    file.emplace(memory.path());
  } catch (const std::runtime_error& error) {
    reason = error.what();
  }
  fuzz::require(file.has_value() == expected.has_value(),
                file ? "a file was accepted that the rules forbid"
                     : "a file was refused that the rules allow: " + reason);
  if (!file) return 0;
  Tensors found;
  for (const auto& info : file->tensors()) found[info.name] = as_plain(info);
  fuzz::require(found == *expected && file->tensors().size() == expected->size(),
                "the tensors differ");
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof length);
  for (const auto& info : file->tensors())
    compare_values(*file, info, bytes.substr(8 + static_cast<std::size_t>(length)),
                   !file->own_checksum().empty());
  fuzz::accepts<std::runtime_error>([&] { file->verify(); });
  return 0;
}
