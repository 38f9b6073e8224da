// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Files that appear whole or not at all: write a temporary file, fsync, rename, fsync the
// directory.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <string_view>
#include <vector>

namespace llama {

/// A file being written beside its final place, under a name that no other process takes,
/// `path.PROCESS-RANDOM.tmp`. Until `publish()` the old file, if any, is untouched; an object
/// destroyed before that removes its temporary file. Every failure is a std::runtime_error with
/// the system's words.
class AtomicFile {
 public:
  /// `path` must be absent or a regular file (a symbolic link is followed), its folder must exist.
  explicit AtomicFile(const std::filesystem::path& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* bytes, std::size_t size);
  void write(std::string_view text) { write(text.data(), text.size()); }

  /// Makes the bytes and the temporary name durable. All that can run out of disk space has
  /// happened by then.
  void finish();
  /// Renames the temporary file to `path` and makes that durable; calls finish() if it was not
  /// called.
  void publish();
  /// Where the bytes are until then.
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

/// The whole protocol for a small file.
void write_file_atomically(const std::filesystem::path& path, std::string_view text);

/// rename and fsync of the folder; both names are in the same one.
void rename_durably(const std::filesystem::path& from, const std::filesystem::path& to);

/// Removes a file, if it is there, and makes that durable.
void remove_durably(const std::filesystem::path& path);

/// The file that is replaced when `path` is written: a symbolic link's target. Throws
/// std::runtime_error if something else than a regular file is there.
[[nodiscard]] std::filesystem::path resolve_output(const std::filesystem::path& path);

/// "config.json" for "config.json.123-0123abcd.tmp" and, as earlier versions named them,
/// "config.json.tmp"; a name that is no temporary file's as it is.
[[nodiscard]] std::string_view final_name(std::string_view name) noexcept;
[[nodiscard]] bool is_temporary(std::string_view name) noexcept;

/// The temporary files in a folder, sorted; none where it cannot be listed.
[[nodiscard]] std::vector<std::filesystem::path> temporaries_in(
    const std::filesystem::path& folder);
/// Removes those whose final name `of` accepts. The caller holds their OutputLock: only then are
/// they known to be of processes that are dead. What cannot be removed does no harm.
void remove_temporaries(const std::filesystem::path& folder,
                        const std::function<bool(std::string_view)>& of);

/// Creates it where it is not there. Throws std::runtime_error.
void create_folder(const std::filesystem::path& folder);

/// Fails now, rather than after hours of training, when `path` could not be written at the end.
/// Touches nothing that is there.
void check_writable(const std::filesystem::path& path);

}  // namespace llama
