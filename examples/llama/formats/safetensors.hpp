// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Reads and writes safetensors files; reads them as if they were hostile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "llama/formats/dtype.hpp"
#include "llama/formats/input_file.hpp"

namespace llama {

struct TensorInfo {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::ptrdiff_t> shape;  ///< rank 0 is one element; a zero makes it empty
  std::uint64_t begin = 0, end = 0;   ///< bytes from the start of the data section

  [[nodiscard]] std::size_t elements() const noexcept {
    return static_cast<std::size_t>((end - begin) * 8 / dtype_bits(dtype));
  }
};

/// "[64, 16]", for messages.
[[nodiscard]] std::string shape_text(std::span<const std::ptrdiff_t> shape);

/// An open file whose whole header has been checked (std::runtime_error otherwise): header length,
/// UTF-8 JSON without duplicate keys, at most 2^18 tensors, known dtypes, shape x dtype = span,
/// spans contiguous from 0 to the end of the file. Whatever the header says, opening takes time in
/// proportion to its length and a few times its memory.
///
/// Files written here carry a CRC-32C of every tensor's bytes and of the header in `__metadata__`.
/// Where they are there they must be right: the header's on opening, a tensor's whenever it is
/// read.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return file_.path(); }
  /// In the order of their bytes.
  [[nodiscard]] const std::vector<TensorInfo>& tensors() const noexcept { return tensors_; }
  /// Null if there is none.
  [[nodiscard]] const TensorInfo* find(std::string_view name) const;
  /// Without the checksums.
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const noexcept {
    return metadata_;
  }

  /// The checksum of the header, which holds those of all tensors, as written in the file; empty in
  /// a file without.
  [[nodiscard]] const std::string& own_checksum() const noexcept { return own_checksum_; }

  /// Reads all tensors against their checksums. A file without checksums is a std::runtime_error
  /// here.
  void verify() const;

  /// Fills `values` (exactly as many as the tensor has, std::invalid_argument otherwise) from F32,
  /// F16, BF16 or F64; F64 is rounded, a finite value beyond float is an error.
  void read(std::string_view name, std::span<float> values) const;
  /// The elements from `first` on; of a part alone the checksum says nothing.
  void read(std::string_view name, std::size_t first, std::span<float> values) const;
  /// The whole of one of I8 to I64 and U8 to U64; a value that does not fit is an error.
  void read(std::string_view name, std::span<std::int32_t> values) const;
  /// The bytes as they are; any dtype. `bytes` must be as long as the tensor
  /// (std::invalid_argument).
  void read_bytes(std::string_view name, std::span<std::byte> bytes) const;

 private:
  const TensorInfo& require(std::string_view name, std::size_t elements) const;
  void check_header(std::string_view text);
  void check(const TensorInfo& tensor, std::uint32_t checksum) const;
  void read_plain(const TensorInfo& tensor, void* bytes) const;
  std::uint32_t read_floats(const TensorInfo& tensor, std::size_t first,
                            std::span<float> values) const;
  template <typename Stored, typename Value, typename Convert>
  std::uint32_t read_as(const TensorInfo& tensor, std::size_t first, std::span<Value> values,
                        Convert convert) const;

  InputFile file_;
  std::uint64_t data_begin_ = 0;
  std::vector<TensorInfo> tensors_;
  std::vector<std::uint32_t> by_name_;  // indices of the tensors, in the order of their names
  std::map<std::string, std::string> metadata_;
  std::string own_checksum_;
  std::vector<std::uint32_t> checksums_;  // as tensors_; empty in a file without
};

/// A tensor that is written as it lies in memory.
struct RawTensor {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::ptrdiff_t> shape;
  std::span<const std::byte> bytes;
};

/// Its values, or what makes them when their turn comes: large models need not be in memory twice.
struct TensorToWrite {
  std::string name;
  std::vector<std::ptrdiff_t> shape;
  std::span<const float> values = {};
  std::function<void(std::span<float>)> make = {};
};

/// Those that it takes in a file.
[[nodiscard]] std::uint64_t bytes_of(const TensorToWrite& tensor, DType dtype);

/// Where the bytes go while a file is written; `AtomicFile` is the one in use.
class AtomicFile;
void write_safetensors(AtomicFile& file, std::span<const RawTensor> tensors,
                       const std::map<std::string, std::string>& metadata);
void write_safetensors(AtomicFile& file, std::span<const TensorToWrite> tensors, DType dtype,
                       const std::map<std::string, std::string>& metadata);

/// Writes a whole file or leaves the old one (std::runtime_error). `dtype` is F32, F16 or BF16, the
/// narrow ones rounded to nearest even; a finite value that F16 cannot hold is an error. Wrong
/// names and shapes: std::invalid_argument, as is a key in `metadata` that begins with
/// "dropbp.crc32c".
void write_safetensors(const std::filesystem::path& path, std::span<const TensorToWrite> tensors,
                       DType dtype = DType::f32,
                       const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace llama
