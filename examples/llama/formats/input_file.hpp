// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A regular file that can be read at any offset; its errors name the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>

namespace llama {

/// The file is mapped into memory. If it is truncated or the disk fails, an access raises SIGBUS; a
/// signal handler turns it into a std::runtime_error of read() and passes on every other SIGBUS.
/// Changes of the bytes during a read are not detected.
class InputFile {
 public:
  /// Throws std::runtime_error if `path` is not a readable regular file.
  explicit InputFile(std::filesystem::path path);
  ~InputFile();
  InputFile(InputFile&& other) noexcept;
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;
  InputFile& operator=(InputFile&&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  /// Bytes, at the time of opening.
  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
  /// Reads `size` bytes at `offset`. Throws std::runtime_error if the file is shorter.
  void read(std::uint64_t offset, void* bytes, std::size_t size) const;

 private:
  std::filesystem::path path_;
  std::uint64_t size_ = 0;
  int descriptor_ = -1;
  const char* map_ = nullptr;
};

}  // namespace llama
