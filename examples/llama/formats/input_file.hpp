// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A regular file opened for reading at any offset, with errors that name it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>

namespace llama {

/// Mapped into memory. Whatever happens to the file meanwhile is an error and no crash: where it
/// was cut or the disk fails, touching the map raises SIGBUS, which a handler of this class turns
/// into the std::runtime_error of read(); the handler passes on every other SIGBUS. Writing into
/// the file while it is read cannot be noticed here.
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
  /// Bytes, when it was opened.
  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
  /// Fills `size` bytes from `offset`; a shorter file is a std::runtime_error.
  void read(std::uint64_t offset, void* bytes, std::size_t size) const;

 private:
  std::filesystem::path path_;
  std::uint64_t size_ = 0;
  int descriptor_ = -1;
  const char* map_ = nullptr;
};

}  // namespace llama
