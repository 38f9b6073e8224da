// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// GGUF: what is written is read back by a plain reader that knows the format's description alone.
#include "llama/formats/gguf.hpp"

#include <cmath>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "fuzz.hpp"

namespace {

using namespace llama;

std::string path() {
  static const fuzz::TemporaryFolder folder;
  return folder.path() + "/a.gguf";
}

/// Reads a file and compares it with what was to be written.
class PlainReader {
 public:
  explicit PlainReader(std::string bytes) : bytes_(std::move(bytes)) {}

  void same(std::string_view expected) {
    fuzz::require(at_ + expected.size() <= bytes_.size() &&
                      bytes_.compare(at_, expected.size(), expected) == 0,
                  "bytes of a GGUF file differ");
    at_ += expected.size();
  }
  /// Little-endian, byte by byte.
  void same_number(std::uint64_t number, int bytes) {
    std::string text;
    for (int i = 0; i < bytes; ++i) text += static_cast<char>(number >> 8 * i & 0xFFu);
    same(text);
  }
  void same_text(std::string_view text) {
    same_number(text.size(), 8);
    same(text);
  }
  void same_value(const GgufValue& value) {
    const int types[] = {4, 6, 7, 8};
    if (value.index() < 4) {
      same_number(static_cast<std::uint64_t>(types[value.index()]), 4);
    } else {
      same_number(9, 4);
      const int elements[] = {8, 5, 6};
      same_number(static_cast<std::uint64_t>(elements[value.index() - 4]), 4);
    }
    if (const auto* u = std::get_if<std::uint32_t>(&value)) same_number(*u, 4);
    if (const auto* f = std::get_if<float>(&value)) same_number(bits_of(*f), 4);
    if (const auto* b = std::get_if<bool>(&value)) same_number(*b ? 1 : 0, 1);
    if (const auto* s = std::get_if<std::string>(&value)) same_text(*s);
    if (const auto* list = std::get_if<std::vector<std::string>>(&value)) {
      same_number(list->size(), 8);
      for (const auto& one : *list) same_text(one);
    }
    if (const auto* list = std::get_if<std::vector<std::int32_t>>(&value)) {
      same_number(list->size(), 8);
      for (const auto one : *list) same_number(static_cast<std::uint32_t>(one), 4);
    }
    if (const auto* list = std::get_if<std::vector<float>>(&value)) {
      same_number(list->size(), 8);
      for (const auto one : *list) same_number(bits_of(one), 4);
    }
  }
  void skip_zeros() {
    for (; at_ % 32 != 0; ++at_)
      fuzz::require(at_ < bytes_.size() && bytes_[at_] == '\0', "padding is not of zeros");
  }
  void require_end() const { fuzz::require(at_ == bytes_.size(), "bytes behind the end"); }
  static std::uint32_t bits_of(float number) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &number, sizeof bits);
    return bits;
  }

 private:
  std::string bytes_;
  std::size_t at_ = 0;
};

GgufValue take_value(fuzz::Input& input) {
  const std::size_t kind = input.below(7), count = input.below(4);
  const auto list = [&]<class Type>(auto take, Type values) {
    for (std::size_t i = 0; i < count; ++i) values.push_back(take());
    return GgufValue(std::move(values));
  };
  const auto text = [&] { return std::string(input.until('\n')); };
  switch (kind) {
    case 0:
      return input.take<std::uint32_t>();
    case 1:
      return input.take<float>();
    case 2:
      return input.below(2) == 1;
    case 3:
      return text();
    case 4:
      return list(text, std::vector<std::string>());
    case 5:
      return list([&] { return input.take<std::int32_t>(); }, std::vector<std::int32_t>());
    default:
      return list([&] { return input.take<float>(); }, std::vector<float>());
  }
}

struct Numbers {
  GgufTensor tensor;
  std::vector<float> values;
};

Numbers take_tensor(fuzz::Input& input) {
  const DType dtypes[] = {DType::f32, DType::f16, DType::bf16};
  Numbers numbers;
  numbers.tensor = {std::string(input.until('\n')), {}, dtypes[input.below(3)], {}};
  std::size_t elements = 1;
  for (std::size_t rank = 1 + input.below(3); rank > 0; --rank) {
    numbers.tensor.shape.push_back(static_cast<std::ptrdiff_t>(1 + input.below(5)));
    elements *= static_cast<std::size_t>(numbers.tensor.shape.back());
  }
  for (std::size_t i = 0; i < elements; ++i) numbers.values.push_back(input.take<float>());
  return numbers;
}

/// Of a narrow number, exactly; of two bytes.
double wide(std::uint16_t bits, bool half) {
  const int digits = half ? 10 : 7, bias = half ? 15 : 127;
  const int exponent = (bits & 0x7FFF) >> digits;
  const double fraction = std::ldexp(static_cast<double>(bits & ((1 << digits) - 1)), -digits);
  const double magnitude =
      exponent == 0 ? std::ldexp(fraction, 1 - bias) : std::ldexp(1.0 + fraction, exponent - bias);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

/// The nearest narrow number; between two, the one with an even last digit.
std::uint16_t narrow(float value, bool half) {
  std::uint16_t best = 0;
  double distance = 1e300;
  const auto consider = [&](std::uint32_t bits) {
    const double here = std::fabs(wide(static_cast<std::uint16_t>(bits), half) -
                                  std::fabs(static_cast<double>(value)));
    if (here < distance || (here == distance && (bits & 1u) == 0))
      best = static_cast<std::uint16_t>(bits), distance = here;
  };
  // Magnitudes are ordered like their bits: those around the value are found by halving.
  std::uint32_t low = 0, high = half ? 0x7BFF : 0x7F7F;
  while (low < high) {
    const std::uint32_t middle = (low + high) / 2;
    if (wide(static_cast<std::uint16_t>(middle), half) < std::fabs(static_cast<double>(value)))
      low = middle + 1;
    else
      high = middle;
  }
  consider(low);
  if (low > 0) consider(low - 1);
  return static_cast<std::uint16_t>(best | (std::signbit(value) ? 0x8000 : 0));
}

void same_values(PlainReader& file, const Numbers& numbers) {
  for (const float value : numbers.values) {
    if (numbers.tensor.dtype == DType::f32)
      file.same_number(PlainReader::bits_of(value), 4);
    else
      file.same_number(narrow(value, numbers.tensor.dtype == DType::f16), 2);
  }
  file.skip_zeros();
}

/// Whether the type can hold the values: from halfway between its largest number and the next power
/// of two they would become infinite.
bool fits(const Numbers& numbers) {
  const DType dtype = numbers.tensor.dtype;
  for (const float value : numbers.values)
    if (!std::isfinite(value) || (dtype == DType::f16 && std::fabs(value) >= 65520.0f) ||
        (dtype == DType::bf16 && std::fabs(value) >= 0x1.ffp127f))
      return false;
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  GgufMetadata metadata;
  std::vector<Numbers> all;
  for (std::size_t i = input.below(5); i > 0; --i) {
    std::string key(input.until('\n'));
    metadata.emplace_back(std::move(key), take_value(input));
  }
  for (std::size_t i = input.below(4); i > 0; --i) all.push_back(take_tensor(input));
  std::vector<GgufTensor> tensors;
  bool all_fit = true;
  for (const Numbers& numbers : all) {
    tensors.push_back(numbers.tensor);
    tensors.back().make = [&numbers](std::span<float> to) {
      fuzz::require(to.size() == numbers.values.size(), "a tensor has another size");
      std::copy(numbers.values.begin(), numbers.values.end(), to.begin());
    };
    all_fit = all_fit && fits(numbers);
  }
  const bool written =
      fuzz::accepts<std::runtime_error>([&] { write_gguf(path(), metadata, tensors); });
  fuzz::require(written == all_fit, "a file is written if and only if its values fit");
  if (!written) return 0;
  std::ifstream stream(path(), std::ios::binary);
  PlainReader file({std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()});
  file.same("GGUF");
  file.same_number(3, 4);
  file.same_number(tensors.size(), 8);
  file.same_number(metadata.size(), 8);
  for (const auto& [key, value] : metadata) {
    file.same_text(key);
    file.same_value(value);
  }
  std::uint64_t offset = 0;
  for (const Numbers& numbers : all) {
    const auto& tensor = numbers.tensor;
    file.same_text(tensor.name);
    file.same_number(tensor.shape.size(), 4);
    for (std::size_t i = tensor.shape.size(); i > 0; --i)
      file.same_number(static_cast<std::uint64_t>(tensor.shape[i - 1]), 8);
    file.same_number(tensor.dtype == DType::f32 ? 0 : tensor.dtype == DType::f16 ? 1 : 30, 4);
    file.same_number(offset, 8);
    offset += (numbers.values.size() * (tensor.dtype == DType::f32 ? 4 : 2) + 31) / 32 * 32;
  }
  file.skip_zeros();
  for (const Numbers& numbers : all) same_values(file, numbers);
  file.require_end();
  return 0;
}
