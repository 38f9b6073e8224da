// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "llama/formats/gguf.hpp"

#include <bit>
#include <cmath>
#include <stdexcept>
#include <string_view>
#include <type_traits>

#include <fmt/format.h>

#include "llama/formats/atomic_file.hpp"
#include "llama/formats/finite.hpp"

namespace llama {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF's numbers are little-endian");

constexpr std::uint32_t version = 3;
constexpr std::size_t alignment = 32;  // the format's default

// The format's numbers of types.
enum : std::uint32_t { type_u32 = 4, type_i32 = 5, type_f32 = 6, type_bool = 7, type_string = 8 };
constexpr std::uint32_t type_array = 9;

template <class Type>
constexpr std::uint32_t type_of() {
  if constexpr (std::is_same_v<Type, std::uint32_t>) return type_u32;
  if constexpr (std::is_same_v<Type, std::int32_t>) return type_i32;
  if constexpr (std::is_same_v<Type, float>) return type_f32;
  if constexpr (std::is_same_v<Type, bool>) return type_bool;
  if constexpr (std::is_same_v<Type, std::string>) return type_string;
}

/// ggml's numbers of the types of tensors.
std::uint32_t ggml_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return 0;
    case DType::f16:
      return 1;
    case DType::bf16:
      return 30;
    default:
      throw std::invalid_argument(fmt::format(
          "write_gguf: a tensor must be F32, F16 or BF16, but {} was asked for; choose one",
          dtype_name(dtype)));
  }
}

class Head {
 public:
  template <class Number>
    requires std::is_arithmetic_v<Number>
  void add(Number number) {
    bytes_.append(reinterpret_cast<const char*>(&number), sizeof number);
  }
  void add(std::string_view text) {
    add(std::uint64_t{text.size()});
    bytes_ += text;
  }
  void add(const GgufValue& value) {
    std::visit(
        [this]<class Type>(const Type& one) {
          if constexpr (requires { typename Type::allocator_type; } &&
                        !std::is_same_v<Type, std::string>) {
            add(type_array);
            add(type_of<typename Type::value_type>());
            add(std::uint64_t{one.size()});
            for (const auto& element : one) add_one(element);
          } else {
            add(type_of<Type>());
            add_one(one);
          }
        },
        value);
  }
  void pad() { bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment, '\0'); }
  [[nodiscard]] const std::string& bytes() const noexcept { return bytes_; }

 private:
  void add_one(const std::string& text) { add(std::string_view(text)); }
  void add_one(bool flag) { add(static_cast<std::uint8_t>(flag)); }
  void add_one(auto number)
    requires(std::is_arithmetic_v<decltype(number)> && !std::is_same_v<decltype(number), bool>)
  {
    add(number);
  }

  std::string bytes_;
};

std::size_t elements_of(const GgufTensor& tensor) {
  std::size_t elements = 1;
  for (const std::ptrdiff_t size : tensor.shape) elements *= static_cast<std::size_t>(size);
  return elements;
}

std::size_t padded_bytes(const GgufTensor& tensor) {
  const std::size_t bytes = elements_of(tensor) * dtype_bits(tensor.dtype) / 8;
  return (bytes + alignment - 1) / alignment * alignment;
}

void write_tensor(AtomicFile& file, const GgufTensor& tensor, std::vector<float>& values) {
  values.resize(elements_of(tensor));
  tensor.make(values);
  const std::span<const float> made(values);
  if (const std::size_t at = first_not_finite(made); at < made.size())
    throw std::runtime_error(
        fmt::format("what is written must be finite, but {}; the file stays as it was: train again "
                    "from finite weights with a lower --learning-rate",
                    not_finite_text(tensor.name, tensor.shape, made, at)));
  std::vector<std::byte> bytes(padded_bytes(tensor));
  if (tensor.dtype == DType::f32) {
    std::copy_n(reinterpret_cast<const std::byte*>(values.data()), values.size() * sizeof(float),
                bytes.data());
  } else {
    auto* const narrow = reinterpret_cast<std::uint16_t*>(bytes.data());
    const bool half = tensor.dtype == DType::f16;
    for (std::size_t i = 0; i < values.size(); ++i) {
      narrow[i] = half ? float_to_half(values[i]) : float_to_bfloat16(values[i]);
      if (!std::isfinite(half ? half_to_float(narrow[i]) : bfloat16_to_float(narrow[i])))
        throw std::runtime_error(
            fmt::format("{} must hold every weight, but '{}' has {}; write with --out-dtype {}f32",
                        dtype_name(tensor.dtype), tensor.name, values[i], half ? "bf16 or " : ""));
    }
  }
  file.write(bytes.data(), bytes.size());
}

}  // namespace

void write_gguf(const std::filesystem::path& path, const GgufMetadata& metadata,
                std::span<const GgufTensor> tensors) {
  Head head;
  for (const char c : std::string_view("GGUF")) head.add(c);
  head.add(version);
  head.add(std::uint64_t{tensors.size()});
  head.add(std::uint64_t{metadata.size()});
  for (const auto& [key, value] : metadata) {
    head.add(std::string_view(key));
    head.add(value);
  }
  std::uint64_t offset = 0;
  for (const GgufTensor& tensor : tensors) {
    head.add(std::string_view(tensor.name));
    head.add(static_cast<std::uint32_t>(tensor.shape.size()));
    for (auto size = tensor.shape.rbegin(); size != tensor.shape.rend(); ++size)
      head.add(static_cast<std::uint64_t>(*size));
    head.add(ggml_type(tensor.dtype));
    head.add(offset);
    offset += padded_bytes(tensor);
  }
  head.pad();
  AtomicFile file(path);
  file.write(head.bytes());
  std::vector<float> values;
  for (const GgufTensor& tensor : tensors) write_tensor(file, tensor, values);
  file.publish();
}

}  // namespace llama
