// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Atomic writes: write a temporary file, fsync it, rename it, fsync the directory.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <string_view>
#include <vector>

namespace llama {

/// A file that is written under a unique temporary name beside its final path,
/// `path.PROCESS-RANDOM.tmp`. Until `publish()` the old file, if any, is unchanged; the destructor
/// removes an unpublished temporary file. Failures are std::runtime_error with the system's error
/// text.
class AtomicFile {
 public:
  /// `path` must be absent or a regular file (a symbolic link is followed), its folder must exist.
  explicit AtomicFile(const std::filesystem::path& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* bytes, std::size_t size);
  void write(std::string_view text) { write(text.data(), text.size()); }

  /// Makes the bytes and the temporary name durable. No later step needs disk space.
  void finish();
  /// Renames the temporary file to `path` and makes that durable; calls finish() first if
  /// necessary.
  void publish();
  /// The temporary file's path.
  [[nodiscard]] const std::filesystem::path& temporary() const noexcept { return temporary_; }
  /// True once the rename has happened, even if publish() then failed to sync the folder.
  [[nodiscard]] bool published() const noexcept { return published_; }
  /// If true, a finished temporary file stays when publish() fails or is never called.
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

/// Writes a small file with the whole protocol.
void write_file_atomically(const std::filesystem::path& path, std::string_view text);

/// Renames a file within a folder and fsyncs the folder.
void rename_durably(const std::filesystem::path& from, const std::filesystem::path& to);

/// Removes a file, if it exists, and makes that durable.
void remove_durably(const std::filesystem::path& path);

/// The file that is replaced when `path` is written; symbolic links are followed. Throws
/// std::runtime_error if it is not a regular file.
[[nodiscard]] std::filesystem::path resolve_output(const std::filesystem::path& path);

/// The final name of a temporary file: "config.json" for "config.json.123-0123abcd.tmp" and for
/// "config.json.tmp", which earlier versions used. Other names are returned unchanged.
[[nodiscard]] std::string_view final_name(std::string_view name) noexcept;
[[nodiscard]] bool is_temporary(std::string_view name) noexcept;

/// The temporary files in a folder, sorted; empty if it cannot be listed.
[[nodiscard]] std::vector<std::filesystem::path> temporaries_in(
    const std::filesystem::path& folder);
/// Removes the temporary files whose final name `of` accepts. The caller must hold the OutputLock,
/// which shows that the processes that wrote them have ended. Files that cannot be removed are
/// ignored.
void remove_temporaries(const std::filesystem::path& folder,
                        const std::function<bool(std::string_view)>& of);

/// Creates the folder if it does not exist. Throws std::runtime_error.
void create_folder(const std::filesystem::path& folder);

/// Throws if `path` could not be written. Called before the training, not after it. Changes no
/// existing file.
void check_writable(const std::filesystem::path& path);

}  // namespace llama
