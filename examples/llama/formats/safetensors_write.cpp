// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Writes safetensors files.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <stdexcept>
#include <utility>

#include "llama/formats/atomic_file.hpp"
#include "llama/formats/crc32c.hpp"
#include "llama/formats/safetensors.hpp"
#include "llama/formats/safetensors_header.hpp"

namespace llama {
namespace {

using nlohmann::json;

using Sink = std::function<void(const void*, std::size_t)>;

/// A tensor to write: its entry in the header, and a function that makes its bytes. It is called
/// twice, for the checksum in the header and for the data after it.
struct Outgoing {
  const std::string& name;
  DType dtype;
  std::span<const std::ptrdiff_t> shape;
  std::uint64_t bytes;
  std::function<void(const Sink&)> produce;
};

std::size_t elements_of(const TensorToWrite& tensor) {
  if (!tensor.make) return tensor.values.size();
  return static_cast<std::size_t>(
      bytes_of(tensor.shape, DType::u8).value_or(0));  // one byte per element
}

/// Calls use(values), making the values first if the tensor has none.
template <typename Use>
void with_values(const TensorToWrite& tensor, const Use& use) {
  if (!tensor.make) return use(tensor.values);
  std::vector<float> made(elements_of(tensor));
  tensor.make(made);
  use(std::span<const float>(made));
}

template <typename Stored, typename Convert>
void convert_to(const Sink& sink, std::span<const float> values, Convert convert) {
  std::vector<Stored> buffer;
  while (!values.empty()) {
    const auto chunk = values.first(std::min(values.size(), chunk_elements));
    buffer.resize(chunk.size());
    std::ranges::transform(chunk, buffer.begin(), convert);
    sink(buffer.data(), buffer.size() * sizeof(Stored));
    values = values.subspan(chunk.size());
  }
}

// Built as text, because nlohmann's ordered objects search all members for each new one.
std::string header_of(std::span<const Outgoing> tensors,
                      const std::map<std::string, std::string>& metadata) {
  if (tensors.size() > tensor_limit)
    throw std::invalid_argument(
        fmt::format("write_safetensors: a file must have at most {} tensors, but {} were given; "
                    "write several files",
                    tensor_limit, tensors.size()));
  const auto quoted = [](std::string_view text) {
    try {
      return json(text).dump();
    } catch (const json::exception&) {
      throw std::invalid_argument(
          "write_safetensors: names and metadata must be UTF-8, but some are not; rename them");
    }
  };
  std::string entries, list;
  for (const auto& [key, value] : metadata) {
    if (key.starts_with(checksum_key))
      throw std::invalid_argument(
          fmt::format("write_safetensors: keys that begin with '{}' are for checksums, but '{}' "
                      "was given; rename it",
                      checksum_key, key));
    entries += fmt::format("{}:{},", quoted(key), quoted(value));
  }
  entries += fmt::format("\"{}\":\"{}\"", checksum_key, std::string(checksum_digits, '0'));
  std::set<std::string_view> names;
  std::uint64_t position = 0;
  for (const Outgoing& tensor : tensors) {
    if (tensor.name == metadata_key || !names.insert(tensor.name).second) {
      throw std::invalid_argument(
          fmt::format("write_safetensors: tensor names must be unique and not '__metadata__', but "
                      "'{}' is not; rename it",
                      tensor.name));
    }
    const bool negative =
        std::ranges::any_of(tensor.shape, [](std::ptrdiff_t size) { return size < 0; });
    const auto bytes = negative ? std::nullopt : bytes_of(tensor.shape, tensor.dtype);
    if (!bytes || *bytes != tensor.bytes) {
      throw std::invalid_argument(fmt::format(
          "write_safetensors: tensor '{}' must have as many values as its shape {} says, but it "
          "has {}; pass the matching span",
          tensor.name, shape_text(tensor.shape), tensor.bytes * 8 / dtype_bits(tensor.dtype)));
    }
    list += fmt::format(R"(,{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                        quoted(tensor.name), dtype_name(tensor.dtype), fmt::join(tensor.shape, ","),
                        position, position + *bytes);
    position += *bytes;
    std::uint32_t checksum = 0;
    tensor.produce(
        [&](const void* data, std::size_t size) { checksum = crc32c(checksum, data, size); });
    entries += fmt::format(",{}:\"{:08x}\"",
                           quoted(fmt::format("{}.{}", checksum_key, tensor.name)), checksum);
  }
  std::string text = fmt::format("{{\"{}\":{{{}}}{}}}", metadata_key, entries, list);
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > header_limit) {
    throw std::invalid_argument(
        fmt::format("write_safetensors: the header must be at most {} bytes, but it has {}; "
                    "shorten the metadata",
                    header_limit, text.size()));
  }
  const std::size_t digits = find_header_checksum(text);
  return text.replace(digits, checksum_digits,
                      fmt::format("{:08x}", header_checksum(text, digits)));
}

void write_outgoing(AtomicFile& file, std::span<const Outgoing> tensors,
                    const std::map<std::string, std::string>& metadata) {
  const std::string header = header_of(tensors, metadata);
  const std::uint64_t length = header.size();
  file.write(&length, sizeof length);
  file.write(header);
  for (const Outgoing& tensor : tensors)
    tensor.produce([&](const void* bytes, std::size_t size) { file.write(bytes, size); });
}

}  // namespace

std::uint64_t bytes_of(const TensorToWrite& tensor, DType dtype) {
  return elements_of(tensor) * dtype_bits(dtype) / 8;
}

void write_safetensors(AtomicFile& file, std::span<const TensorToWrite> tensors, DType dtype,
                       const std::map<std::string, std::string>& metadata) {
  if (dtype != DType::f32 && dtype != DType::f16 && dtype != DType::bf16) {
    throw std::invalid_argument(fmt::format(
        "write_safetensors: the dtype must be F32, F16 or BF16, but it is {}; choose one of them",
        dtype_name(dtype)));
  }
  std::vector<Outgoing> outgoing;
  for (const TensorToWrite& tensor : tensors) {
    const auto narrowed = [dtype, &tensor](auto narrow, auto widen) {
      return [=, &tensor](const Sink& sink) {
        with_values(tensor, [&](std::span<const float> values) {
          convert_to<std::uint16_t>(sink, values, [&](float value) {
            const std::uint16_t bits = narrow(value);
            if (std::isfinite(value) && !std::isfinite(widen(bits))) {
              throw std::runtime_error(
                  fmt::format("write_safetensors: the values of tensor '{}' must fit {}, but one "
                              "is {}; write F32 (--out-dtype f32)",
                              tensor.name, dtype_name(dtype), value));
            }
            return bits;
          });
        });
      };
    };
    std::function<void(const Sink&)> produce;
    if (dtype == DType::f16)
      produce = narrowed(float_to_half, half_to_float);
    else if (dtype == DType::bf16)
      produce = narrowed(float_to_bfloat16, bfloat16_to_float);
    else
      produce = [&tensor](const Sink& sink) {
        with_values(tensor, [&](std::span<const float> values) {
          sink(values.data(), values.size_bytes());
        });
      };
    outgoing.push_back({tensor.name, dtype, tensor.shape,
                        elements_of(tensor) * dtype_bits(dtype) / 8, std::move(produce)});
  }
  write_outgoing(file, outgoing, metadata);
}

void write_safetensors(AtomicFile& file, std::span<const RawTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<Outgoing> outgoing;
  for (const RawTensor& tensor : tensors)
    outgoing.push_back(
        {tensor.name, tensor.dtype, tensor.shape, tensor.bytes.size(),
         [&tensor](const Sink& sink) { sink(tensor.bytes.data(), tensor.bytes.size()); }});
  write_outgoing(file, outgoing, metadata);
}

void write_safetensors(const std::filesystem::path& path, std::span<const TensorToWrite> tensors,
                       DType dtype, const std::map<std::string, std::string>& metadata) {
  AtomicFile file(path);
  write_safetensors(file, tensors, dtype, metadata);
  file.publish();
}

}  // namespace llama
