// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The safetensors format: u64 little-endian header length, JSON header, data. Rules: see the
// constructor.
#include "llama/formats/safetensors.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <set>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "llama/formats/atomic_file.hpp"
#include "llama/formats/crc32c.hpp"
#include "llama/formats/strict_json.hpp"

namespace llama {
namespace {

static_assert(std::endian::native == std::endian::little,
              "safetensors data is little-endian and is read without swapping");

using nlohmann::json;

constexpr std::uint64_t header_limit =
    100'000'000;                  // bytes; the reference reader's MAX_HEADER_SIZE
constexpr int nesting_limit = 4;  // header {, tensor {, shape [; one to spare
// These two bound the memory that a hostile header takes, to about that of its text again and
// again. The largest models have some 150,000 tensors in all of their files.
constexpr std::size_t tensor_limit = 1 << 18;
constexpr std::size_t value_limit = 1 << 19;       // JSON values of a tensor or of the metadata
constexpr std::size_t chunk_elements = 1 << 16;    // converted at a time, through a small buffer
constexpr std::size_t verified_at_once = 1 << 18;  // bytes
constexpr std::string_view metadata_key = "__metadata__";

// In __metadata__: "dropbp.crc32c" of the header and "dropbp.crc32c.NAME" of each tensor, eight
// hexadecimal digits each.
constexpr std::string_view checksum_key = "dropbp.crc32c";
constexpr std::string_view header_checksum_start =
    "\"dropbp.crc32c\":\"";  // quotes within a string would be escaped
constexpr std::size_t checksum_digits = 8;

struct DTypeRow {
  DType dtype;
  std::string_view name;
  std::size_t bits;
};
constexpr std::array dtype_table{
    DTypeRow{DType::boolean, "BOOL", 8},    DTypeRow{DType::f4, "F4", 4},
    DTypeRow{DType::f6_e2m3, "F6_E2M3", 6}, DTypeRow{DType::f6_e3m2, "F6_E3M2", 6},
    DTypeRow{DType::u8, "U8", 8},           DTypeRow{DType::i8, "I8", 8},
    DTypeRow{DType::f8_e5m2, "F8_E5M2", 8}, DTypeRow{DType::f8_e4m3, "F8_E4M3", 8},
    DTypeRow{DType::f8_e8m0, "F8_E8M0", 8}, DTypeRow{DType::i16, "I16", 16},
    DTypeRow{DType::u16, "U16", 16},        DTypeRow{DType::f16, "F16", 16},
    DTypeRow{DType::bf16, "BF16", 16},      DTypeRow{DType::i32, "I32", 32},
    DTypeRow{DType::u32, "U32", 32},        DTypeRow{DType::f32, "F32", 32},
    DTypeRow{DType::c64, "C64", 64},        DTypeRow{DType::f64, "F64", 64},
    DTypeRow{DType::i64, "I64", 64},        DTypeRow{DType::u64, "U64", 64},
};

constexpr bool table_follows_enum() {
  for (std::size_t i = 0; i < dtype_table.size(); ++i) {
    if (static_cast<std::size_t>(dtype_table[i].dtype) != i) return false;
  }
  return true;
}
static_assert(table_follows_enum());

std::optional<DType> dtype_from_name(std::string_view name) {
  const auto* row = std::ranges::find(dtype_table, name, &DTypeRow::name);
  return row == dtype_table.end() ? std::nullopt : std::optional(row->dtype);
}

std::optional<std::uint64_t> checked_multiply(std::uint64_t a, std::uint64_t b) {
  if (b != 0 && a > std::numeric_limits<std::uint64_t>::max() / b) return std::nullopt;
  return a * b;
}

/// Bytes of a tensor; none if the product overflows or does not end on a whole byte.
std::optional<std::uint64_t> bytes_of(std::span<const std::ptrdiff_t> shape, DType dtype) {
  std::uint64_t count = 1;
  for (const std::ptrdiff_t size : shape) {
    const auto product = checked_multiply(count, static_cast<std::uint64_t>(size));
    if (!product) return std::nullopt;
    count = *product;
  }
  const auto bits = checked_multiply(count, dtype_bits(dtype));
  if (!bits || *bits % 8 != 0) return std::nullopt;
  return *bits / 8;
}

[[noreturn]] void fail(const std::filesystem::path& path, const std::string& required,
                       const std::string& given) {
  throw std::runtime_error(fmt::format(
      "'{}': {}, but {}; the file is damaged or not safetensors, fetch or write it again",
      path.string(), clipped(required, 1000), clipped(given, 1000)));
}

std::uint64_t read_header_length(const InputFile& file) {
  if (file.size() < 8)
    fail(file.path(), "a safetensors file has at least 8 bytes",
         fmt::format("this one has {}", file.size()));
  std::uint64_t length = 0;
  file.read(0, &length, sizeof length);
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
  const auto known = dtype_from_name(dtype.get_ref<const std::string&>());
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
  // Empty tensors share their position with the next one: the end decides, then the name, so the
  // order is fixed.
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

/// Where the digits of the header's checksum are; npos if there are none.
std::size_t find_header_checksum(std::string_view header) {
  const std::size_t start = header.find(header_checksum_start);
  if (start == std::string_view::npos ||
      start + header_checksum_start.size() + checksum_digits > header.size())
    return std::string_view::npos;
  return start + header_checksum_start.size();
}

/// Of the header with zeros in the place of its own checksum, and of the length before it.
std::uint32_t header_checksum(std::string_view header, std::size_t digits) {
  const std::uint64_t length = header.size();
  const std::string zeros(checksum_digits, '0');
  const std::string_view rest = header.substr(digits + checksum_digits);
  std::uint32_t checksum = crc32c(0, &length, sizeof length);
  checksum = crc32c(checksum, header.data(), digits);
  checksum = crc32c(checksum, zeros.data(), zeros.size());
  return crc32c(checksum, rest.data(), rest.size());
}

using Sink = std::function<void(const void*, std::size_t)>;

/// A tensor on its way into a file: its place in the header and what makes its bytes, once for the
/// checksum and once for the file, because the header comes first.
struct Outgoing {
  const std::string& name;
  DType dtype;
  std::span<const std::ptrdiff_t> shape;
  std::uint64_t bytes;
  std::function<void(const Sink&)> produce;
};

std::size_t elements_of(const TensorToWrite& tensor) {
  if (!tensor.make) return tensor.values.size();
  return static_cast<std::size_t>(bytes_of(tensor.shape, DType::u8).value_or(0));  // a byte each
}

/// use(values), made for this call where the tensor has none.
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

// Put together as text: nlohmann's ordered objects search all members for each new one.
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

std::string_view dtype_name(DType dtype) noexcept {
  return dtype_table[static_cast<std::size_t>(dtype)].name;
}
std::size_t dtype_bits(DType dtype) noexcept {
  return dtype_table[static_cast<std::size_t>(dtype)].bits;
}

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

/// The checksum of what was read.
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
                              "is {}; write F32",
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

float half_to_float(std::uint16_t bits) noexcept {
  const std::uint32_t sign = (bits & 0x8000u) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1fu;
  const std::uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | mantissa << 13);
  if (exponent != 0)
    return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);  // bias 127 - 15
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;  // zero and subnormals, exact
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
}

std::uint16_t float_to_half(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u)
    return static_cast<std::uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  if (magnitude >= 0x477ff000u)
    return static_cast<std::uint16_t>(sign | 0x7c00u);  // from 65520 on: infinity
  std::uint32_t source = magnitude - 0x38000000u;       // exponent rebiased from 127 to 15
  std::uint32_t shift = 13;
  if (magnitude < 0x38800000u) {  // below 2^-14: a multiple of 2^-24
    const std::uint32_t exponent = magnitude >> 23;
    if (exponent < 102) return static_cast<std::uint16_t>(sign);  // below 2^-25
    source = (magnitude & 0x7fffffu) | 0x800000u;
    shift = 126 - exponent;
  }
  std::uint32_t half = source >> shift;
  const std::uint32_t rest = source & ((1u << shift) - 1);
  const std::uint32_t tie = 1u << (shift - 1);
  if (rest > tie || (rest == tie && (half & 1u) != 0))
    ++half;  // a carry into the exponent is right
  return static_cast<std::uint16_t>(sign | half);
}

float bfloat16_to_float(std::uint16_t bits) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

std::uint16_t float_to_bfloat16(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u)
    return static_cast<std::uint16_t>((bits >> 16) | 0x40u);  // NaN stays NaN
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace llama
