// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Reads safetensors files: u64 little-endian header length, JSON header, data. Rules: see the
// constructor.
#include "llama/formats/safetensors.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "llama/formats/crc32c.hpp"
#include "llama/formats/file_format.hpp"
#include "llama/formats/safetensors_header.hpp"
#include "llama/formats/strict_json.hpp"

namespace llama {
namespace {

static_assert(std::endian::native == std::endian::little,
              "safetensors data is little-endian and is read without swapping");

using nlohmann::json;

constexpr int nesting_limit = 4;  // header {, tensor {, shape [, and one more
// Most JSON values of a tensor or of the metadata. With tensor_limit it bounds the memory that a
// hostile header takes to a few times its text.
constexpr std::size_t value_limit = 1 << 19;
constexpr std::size_t verified_at_once = 1 << 18;  // bytes

[[noreturn]] void fail(const std::filesystem::path& path, const std::string& required,
                       const std::string& given) {
  throw std::runtime_error(fmt::format(
      "'{}': {}, but {}; the file is damaged or not safetensors, fetch or write it again",
      path.string(), clipped(required, 1000), clipped(given, 1000)));
}

/// Throws, naming the format, if the first bytes are those of another format and cannot be a
/// length: a long signature, or text (a Git LFS pointer, an HTML page).
void refuse_other_format(const InputFile& file) {
  std::string front(static_cast<std::size_t>(std::min<std::uint64_t>(file.size(), format_probe)),
                    '\0');
  file.read(0, front.data(), front.size());
  const auto is_printable = [](char c) { return c >= ' ' && c <= '~'; };
  const bool begins_as_text = std::ranges::all_of(front.substr(0, 8), is_printable);
  const auto format = begins_as_text ? format_of(front) : format_of_ids(front);
  if (format && format->may_hold_text)
    fail(file.path(), "a safetensors file begins with the length of its header",
         fmt::format("it is {}", format->name));
}

std::uint64_t read_header_length(const InputFile& file) {
  if (file.size() < 8)
    fail(file.path(), "a safetensors file has at least 8 bytes",
         fmt::format("this one has {}", file.size()));
  std::uint64_t length = 0;
  file.read(0, &length, sizeof length);
  if (length > header_limit || length > file.size() - 8) refuse_other_format(file);
  if (length > header_limit) {
    fail(file.path(), fmt::format("the header length must be at most {} bytes", header_limit),
         fmt::format("the first 8 bytes say {}", length));
  }
  if (length > file.size() - 8) {
    fail(file.path(), "the header must lie within the file",
         fmt::format("it is {} bytes long and the file has {} after its first 8", length,
                     file.size() - 8));
  }
  return length;
}

std::uint64_t unsigned_or_fail(const std::filesystem::path& path, const std::string& tensor,
                               const char* what, const json& value) {
  if (!value.is_number_unsigned()) {
    fail(path,
         fmt::format("{} of tensor '{}' must be a whole number from 0 to 2^64-1", what, tensor),
         fmt::format("it is {}", value.dump()));
  }
  return value.get<std::uint64_t>();
}

const json& member_or_fail(const std::filesystem::path& path, const std::string& tensor,
                           const json& entry, const char* key) {
  const auto member = entry.find(key);
  if (member == entry.end())
    fail(path, fmt::format("tensor '{}' must have a '{}'", tensor, key), "it has none");
  return *member;
}

TensorInfo parse_tensor(const std::filesystem::path& path, const std::string& whole_name,
                        const json& entry) {
  const std::string name = clipped(whole_name);  // for messages
  if (!entry.is_object())
    fail(path, fmt::format("tensor '{}' must be an object", name),
         fmt::format("it is a {}", entry.type_name()));
  TensorInfo tensor;
  tensor.name = whole_name;

  const json& dtype = member_or_fail(path, name, entry, "dtype");
  if (!dtype.is_string())
    fail(path, fmt::format("the dtype of tensor '{}' must be a string", name),
         fmt::format("it is {}", dtype.dump()));
  const auto known = find_dtype(dtype.get_ref<const std::string&>());
  if (!known)
    fail(path,
         fmt::format(
             "the dtype of tensor '{}' must be one of the format's (F32, F16, BF16, I32, ...)",
             name),
         fmt::format("it is {}", dtype.dump()));
  tensor.dtype = *known;

  const json& shape = member_or_fail(path, name, entry, "shape");
  if (!shape.is_array())
    fail(path, fmt::format("the shape of tensor '{}' must be a list", name),
         fmt::format("it is {}", shape.dump()));
  tensor.shape.reserve(shape.size());
  for (const json& size : shape) {
    const std::uint64_t value = unsigned_or_fail(path, name, "a size in the shape", size);
    if (value > static_cast<std::uint64_t>(std::numeric_limits<std::ptrdiff_t>::max())) {
      fail(path, fmt::format("a size in the shape of tensor '{}' must be below 2^63", name),
           fmt::format("it is {}", value));
    }
    tensor.shape.push_back(static_cast<std::ptrdiff_t>(value));
  }

  const json& offsets = member_or_fail(path, name, entry, "data_offsets");
  if (!offsets.is_array() || offsets.size() != 2) {
    fail(path, fmt::format("the data_offsets of tensor '{}' must be two numbers", name),
         fmt::format("they are {}", offsets.dump()));
  }
  tensor.begin = unsigned_or_fail(path, name, "a data offset", offsets[0]);
  tensor.end = unsigned_or_fail(path, name, "a data offset", offsets[1]);
  if (tensor.begin > tensor.end) {
    fail(path, fmt::format("the data_offsets of tensor '{}' must not decrease", name),
         fmt::format("they are [{}, {}]", tensor.begin, tensor.end));
  }

  const auto bytes = bytes_of(tensor.shape, tensor.dtype);
  if (!bytes || *bytes != tensor.end - tensor.begin) {
    fail(path,
         fmt::format("tensor '{}' of shape {} and dtype {} must span {}", name,
                     shape_text(tensor.shape), dtype_name(tensor.dtype),
                     bytes ? fmt::format("{} bytes", *bytes)
                           : std::string("a whole number of bytes below 2^64")),
         fmt::format("its data_offsets [{}, {}] span {}", tensor.begin, tensor.end,
                     tensor.end - tensor.begin));
  }
  return tensor;
}

std::map<std::string, std::string> parse_metadata(const std::filesystem::path& path, json entry) {
  if (!entry.is_object())
    fail(path, "'__metadata__' must be an object of strings",
         fmt::format("it is a {}", entry.type_name()));
  std::map<std::string, std::string> metadata;
  for (auto& [key, value] : entry.get_ref<json::object_t&>()) {
    if (!value.is_string())
      fail(path, "'__metadata__' must map strings to strings",
           fmt::format("'{}' is {}", key, value.dump()));
    metadata.emplace(key, std::move(value.get_ref<std::string&>()));
  }
  return metadata;
}

/// Sorts by position and checks that the spans tile the data section exactly.
void check_layout(const std::filesystem::path& path, std::vector<TensorInfo>& tensors,
                  std::uint64_t data_bytes) {
  // Empty tensors begin where the next one does; sorting by end and name makes the order unique.
  std::ranges::sort(tensors, {},
                    [](const TensorInfo& t) { return std::tie(t.begin, t.end, t.name); });
  std::uint64_t position = 0;
  for (const TensorInfo& tensor : tensors) {
    if (tensor.begin != position) {
      fail(path,
           fmt::format("the data must follow without {}, so tensor '{}' must begin at {}",
                       tensor.begin < position ? "overlap" : "holes", clipped(tensor.name),
                       position),
           fmt::format("it begins at {}", tensor.begin));
    }
    position = tensor.end;
  }
  if (position != data_bytes) {
    fail(
        path,
        fmt::format("the tensors end at byte {} of the data, so the data must have that many bytes",
                    position),
        fmt::format("the file has {}{}", data_bytes,
                    data_bytes < position ? " (it is truncated)" : ""));
  }
}

std::optional<std::uint32_t> checksum_from(std::string_view text) {
  std::uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (error != std::errc() || end != text.data() + text.size() ||
      fmt::format("{:08x}", value) != text)
    return std::nullopt;
  return value;
}

}  // namespace

std::string shape_text(std::span<const std::ptrdiff_t> shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(path) {
  const std::uint64_t length = read_header_length(file_);
  std::string text(static_cast<std::size_t>(length), '\0');
  file_.read(8, text.data(), text.size());
  data_begin_ = 8 + length;

  for_each_member(text, fmt::format("the header of '{}'", path.string()), nesting_limit,
                  value_limit, [&](const std::string& name, json&& entry) {
                    if (name == metadata_key) {
                      metadata_ = parse_metadata(path, std::move(entry));
                      return;
                    }
                    if (tensors_.size() == tensor_limit)
                      fail(path, fmt::format("a file must have at most {} tensors", tensor_limit),
                           "this one has more");
                    tensors_.push_back(parse_tensor(path, name, entry));
                  });
  check_layout(path, tensors_, file_.size() - data_begin_);
  by_name_.resize(tensors_.size());
  std::iota(by_name_.begin(), by_name_.end(), 0u);
  std::ranges::sort(by_name_, {},
                    [&](std::uint32_t i) { return std::string_view(tensors_[i].name); });
  check_header(text);
}

/// Moves the checksums out of the metadata.
void SafetensorsFile::check_header(std::string_view text) {
  const auto own = metadata_.find(std::string(checksum_key));
  if (own == metadata_.end()) return;
  const auto stored = checksum_from(own->second);
  const std::size_t digits = find_header_checksum(text);
  if (!stored || digits == std::string::npos || header_checksum(text, digits) != *stored)
    fail(path(), "the header must have the checksum that it says",
         fmt::format("that is {} and it has another", own->second));
  own_checksum_ = own->second;
  metadata_.erase(own);
  checksums_.reserve(tensors_.size());
  for (const TensorInfo& tensor : tensors_) {
    const auto entry = metadata_.find(fmt::format("{}.{}", checksum_key, tensor.name));
    const auto checksum = entry == metadata_.end() ? std::nullopt : checksum_from(entry->second);
    if (!checksum)
      fail(path(), fmt::format("'__metadata__' must have a checksum of tensor '{}'", tensor.name),
           "it has none");
    checksums_.push_back(*checksum);
    metadata_.erase(entry);
  }
}

void SafetensorsFile::check(const TensorInfo& tensor, std::uint32_t checksum) const {
  if (checksums_.empty()) return;
  const std::uint32_t stored = checksums_[static_cast<std::size_t>(&tensor - tensors_.data())];
  if (stored != checksum)
    fail(path(), fmt::format("tensor '{}' must have the checksum {:08x}", tensor.name, stored),
         fmt::format("it has {:08x}", checksum));
}

void SafetensorsFile::verify() const {
  if (checksums_.size() != tensors_.size() || checksums_.empty())
    fail(path(), "the file must carry checksums", "it has none");
  std::vector<std::byte> buffer;
  for (const TensorInfo& tensor : tensors_) {
    std::uint32_t checksum = 0;
    for (std::uint64_t position = tensor.begin; position < tensor.end; position += buffer.size()) {
      buffer.resize(static_cast<std::size_t>(
          std::min<std::uint64_t>(verified_at_once, tensor.end - position)));
      file_.read(data_begin_ + position, buffer.data(), buffer.size());
      checksum = crc32c(checksum, buffer.data(), buffer.size());
    }
    check(tensor, checksum);
  }
}

const TensorInfo* SafetensorsFile::find(std::string_view name) const {
  const auto name_of = [&](std::uint32_t i) { return std::string_view(tensors_[i].name); };
  const auto found = std::ranges::lower_bound(by_name_, name, {}, name_of);
  return found == by_name_.end() || name_of(*found) != name ? nullptr : &tensors_[*found];
}

const TensorInfo& SafetensorsFile::require(std::string_view name, std::size_t elements) const {
  const TensorInfo* tensor = find(name);
  if (tensor == nullptr) {
    throw std::runtime_error(
        fmt::format("'{}' must contain the tensor '{}', but its {} tensors do not include it; "
                    "check that it is the right file",
                    path().string(), name, tensors_.size()));
  }
  if (tensor->elements() != elements) {
    throw std::invalid_argument(
        fmt::format("reading '{}' needs room for {} values (shape {}), but {} were given; pass a "
                    "span of that size",
                    name, tensor->elements(), shape_text(tensor->shape), elements));
  }
  return *tensor;
}

template <typename Stored, typename Value, typename Convert>
std::uint32_t SafetensorsFile::read_as(const TensorInfo& tensor, std::size_t first,
                                       std::span<Value> values, Convert convert) const {
  std::vector<Stored> buffer(std::min(values.size(), chunk_elements));
  std::uint64_t offset = data_begin_ + tensor.begin + first * sizeof(Stored);
  std::uint32_t checksum = 0;
  for (std::size_t done = 0; done < values.size(); done += buffer.size()) {
    buffer.resize(std::min(chunk_elements, values.size() - done));
    file_.read(offset, buffer.data(), buffer.size() * sizeof(Stored));
    checksum = crc32c(checksum, buffer.data(), buffer.size() * sizeof(Stored));
    std::ranges::transform(buffer, values.begin() + static_cast<std::ptrdiff_t>(done), convert);
    offset += buffer.size() * sizeof(Stored);
  }
  return checksum;
}

void SafetensorsFile::read_plain(const TensorInfo& tensor, void* bytes) const {
  const auto size = static_cast<std::size_t>(tensor.end - tensor.begin);
  file_.read(data_begin_ + tensor.begin, bytes, size);
  if (!checksums_.empty()) check(tensor, crc32c(0, bytes, size));
}

void SafetensorsFile::read_bytes(std::string_view name, std::span<std::byte> bytes) const {
  const TensorInfo* const tensor = find(name);
  const TensorInfo& info = require(name, tensor == nullptr ? 0 : tensor->elements());
  if (bytes.size() != info.end - info.begin)
    throw std::invalid_argument(fmt::format(
        "reading '{}' needs room for {} bytes, but {} were given; pass a span of that size", name,
        info.end - info.begin, bytes.size()));
  read_plain(info, bytes.data());
}

/// Returns the checksum of the bytes read.
std::uint32_t SafetensorsFile::read_floats(const TensorInfo& tensor, std::size_t first,
                                           std::span<float> values) const {
  switch (tensor.dtype) {
    case DType::f32:
      file_.read(data_begin_ + tensor.begin + first * sizeof(float), values.data(),
                 values.size_bytes());
      return checksums_.empty() ? 0 : crc32c(0, values.data(), values.size_bytes());
    case DType::f16:
      return read_as<std::uint16_t>(tensor, first, values, half_to_float);
    case DType::bf16:
      return read_as<std::uint16_t>(tensor, first, values, bfloat16_to_float);
    case DType::f64:
      return read_as<double>(tensor, first, values, [&](double value) {
        if (std::isfinite(value) &&
            std::abs(value) > static_cast<double>(std::numeric_limits<float>::max())) {
          throw std::runtime_error(fmt::format(
              "'{}': the values of tensor '{}' must fit a float, but one is {}; scale it down",
              path().string(), tensor.name, value));
        }
        return static_cast<float>(value);
      });
    default:
      throw std::runtime_error(
          fmt::format("'{}': tensor '{}' must be F32, F16, BF16 or F64 to be read as numbers, but "
                      "it is {}; convert it",
                      path().string(), tensor.name, dtype_name(tensor.dtype)));
  }
}

void SafetensorsFile::read(std::string_view name, std::span<float> values) const {
  const TensorInfo& tensor = require(name, values.size());
  check(tensor, read_floats(tensor, 0, values));
}

void SafetensorsFile::read(std::string_view name, std::size_t first,
                           std::span<float> values) const {
  const TensorInfo* const found = find(name);
  const TensorInfo& tensor = require(name, found == nullptr ? 0 : found->elements());
  if (first > tensor.elements() || values.size() > tensor.elements() - first)
    throw std::invalid_argument(
        fmt::format("reading '{}' must stay within its {} values, but {} from {} on were asked "
                    "for; pass a smaller span",
                    name, tensor.elements(), values.size(), first));
  (void)read_floats(tensor, first, values);
}

void SafetensorsFile::read(std::string_view name, std::span<std::int32_t> values) const {
  const TensorInfo& tensor = require(name, values.size());
  const auto narrow = [&](auto value) {
    if (!std::in_range<std::int32_t>(value)) {
      throw std::runtime_error(
          fmt::format("'{}': the values of tensor '{}' must fit 32-bit integers, but one is {}; "
                      "check that it holds ids",
                      path().string(), name, value));
    }
    return static_cast<std::int32_t>(value);
  };
  switch (tensor.dtype) {
    case DType::i8:
      return check(tensor, read_as<std::int8_t>(tensor, 0, values, narrow));
    case DType::u8:
      return check(tensor, read_as<std::uint8_t>(tensor, 0, values, narrow));
    case DType::i16:
      return check(tensor, read_as<std::int16_t>(tensor, 0, values, narrow));
    case DType::u16:
      return check(tensor, read_as<std::uint16_t>(tensor, 0, values, narrow));
    case DType::i32:
      return check(tensor, read_as<std::int32_t>(tensor, 0, values, narrow));
    case DType::u32:
      return check(tensor, read_as<std::uint32_t>(tensor, 0, values, narrow));
    case DType::i64:
      return check(tensor, read_as<std::int64_t>(tensor, 0, values, narrow));
    case DType::u64:
      return check(tensor, read_as<std::uint64_t>(tensor, 0, values, narrow));
    default:
      throw std::runtime_error(
          fmt::format("'{}': tensor '{}' must have an integer dtype to be read as integers, but it "
                      "is {}; convert it",
                      path().string(), name, dtype_name(tensor.dtype)));
  }
}

}  // namespace llama
