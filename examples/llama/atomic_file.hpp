// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Files that appear whole or not at all: write `path.tmp`, fsync, rename, fsync the directory.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string_view>

namespace llama {

/// A file being written beside its final place. Until `publish()` the old file, if any, is
/// untouched; an object destroyed before that removes its `path.tmp`. Every failure is a
/// std::runtime_error with the system's words.
class AtomicFile {
 public:
  /// `path` must be absent or a regular file (a symbolic link is followed), its folder must exist.
  explicit AtomicFile(const std::filesystem::path& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* bytes, std::size_t size);
  void write(std::string_view text) { write(text.data(), text.size()); }

  /// Makes the bytes and the name `path.tmp` durable. All that can run out of disk space has
  /// happened by then.
  void finish();
  /// Renames `path.tmp` to `path` and makes that durable; calls finish() if it was not called.
  void publish();
  /// Where the bytes are until then.
  [[nodiscard]] const std::filesystem::path& temporary() const noexcept { return temporary_; }
  /// True once the rename has happened, even if publish() then failed to sync the folder.
  [[nodiscard]] bool published() const noexcept { return published_; }
  /// If true, a finished `path.tmp` stays when publish() fails or is never called.
  void keep_temporary(bool keep) noexcept { keep_temporary_ = keep; }

 private:
  void discard() noexcept;

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
  bool finished_ = false;
  bool published_ = false;
  bool keep_temporary_ = false;
};

/// The whole protocol for a small file.
void write_file_atomically(const std::filesystem::path& path, std::string_view text);

/// rename and fsync of the folder; both names are in the same one.
void rename_durably(const std::filesystem::path& from, const std::filesystem::path& to);

/// Removes a file, if it is there, and makes that durable.
void remove_durably(const std::filesystem::path& path);

/// Fails now, rather than after hours of training, when `path` could not be written at the end.
void check_writable(const std::filesystem::path& path);

}  // namespace llama
