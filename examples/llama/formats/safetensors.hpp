// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Reads and writes safetensors files. Files that are read may be hostile.
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
  std::vector<std::ptrdiff_t>
      shape;                         ///< rank 0 has one element; a size of 0 makes the tensor empty
  std::uint64_t begin = 0, end = 0;  ///< bytes from the start of the data section

  [[nodiscard]] std::size_t elements() const noexcept {
    return static_cast<std::size_t>((end - begin) * 8 / dtype_bits(dtype));
  }
};

/// "[64, 16]", for messages.
[[nodiscard]] std::string shape_text(std::span<const std::ptrdiff_t> shape);

/// An open file whose header has been checked (std::runtime_error otherwise): header length, UTF-8
/// JSON without duplicate keys, at most 2^18 tensors, known dtypes, shape x dtype = span, spans
/// contiguous from 0 to the end of the file. Opening takes time proportional to the header's
/// length, and a few times its memory, also for hostile headers.
///
/// Files written here carry a CRC-32C of every tensor's bytes and of the header in `__metadata__`.
/// Existing checksums must be right: the header's is checked on opening, a tensor's on every read.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return file_.path(); }
  /// In the order of their data.
  [[nodiscard]] const std::vector<TensorInfo>& tensors() const noexcept { return tensors_; }
  /// Null if the file does not have it.
  [[nodiscard]] const TensorInfo* find(std::string_view name) const;
  /// Without the checksums.
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const noexcept {
    return metadata_;
  }

  /// The header's checksum as written in the file, which covers those of all tensors; empty if the
  /// file has none.
  [[nodiscard]] const std::string& own_checksum() const noexcept { return own_checksum_; }

  /// Checks all tensors against their checksums. Throws std::runtime_error for a file without
  /// checksums.
  void verify() const;

  /// Reads a tensor of F32, F16, BF16 or F64. `values` must have the tensor's size
  /// (std::invalid_argument). F64 is rounded; a finite value beyond float is an error.
  void read(std::string_view name, std::span<float> values) const;
  /// Reads the elements from `first` on. The checksum of a part is not checked.
  void read(std::string_view name, std::size_t first, std::span<float> values) const;
  /// Reads a tensor of I8 to I64 or U8 to U64; a value that does not fit is an error.
  void read(std::string_view name, std::span<std::int32_t> values) const;
  /// Reads the bytes of a tensor of any dtype. `bytes` must have the tensor's size
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
  std::vector<std::uint32_t> checksums_;  // in the order of tensors_; empty if the file has none
};

/// A tensor whose bytes are written unchanged.
struct RawTensor {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::ptrdiff_t> shape;
  std::span<const std::byte> bytes;
};

/// A tensor given by its values, or by a function that makes them when they are written, so that
/// large models are not in memory twice.
struct TensorToWrite {
  std::string name;
  std::vector<std::ptrdiff_t> shape;
  std::span<const float> values = {};
  std::function<void(std::span<float>)> make = {};
};

/// Bytes of the tensor in a file.
[[nodiscard]] std::uint64_t bytes_of(const TensorToWrite& tensor, DType dtype);

/// Writes the tensors into `file`.
class AtomicFile;
void write_safetensors(AtomicFile& file, std::span<const RawTensor> tensors,
                       const std::map<std::string, std::string>& metadata);
void write_safetensors(AtomicFile& file, std::span<const TensorToWrite> tensors, DType dtype,
                       const std::map<std::string, std::string>& metadata);

/// Writes a file, or throws std::runtime_error and leaves the old one unchanged. `dtype` is F32,
/// F16 or BF16 (rounded to nearest even); a finite value that F16 cannot hold is an error. Throws
/// std::invalid_argument for wrong names and shapes, and for a key in `metadata` that begins with
/// "dropbp.crc32c".
void write_safetensors(const std::filesystem::path& path, std::span<const TensorToWrite> tensors,
                       DType dtype = DType::f32,
                       const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace llama
