// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// An output belongs to one run at a time.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>

namespace llama {

enum class Output { folder, file };

/// A lock on a folder or a file that is written, as long as the object lives. It is the system's
/// own lock (flock) on a hidden file, `.dropbp.lock` in the folder or `.NAME.dropbp.lock` beside
/// the file: it ends with the process, however that ends, so that none is ever stale. Two paths to
/// one place are one lock. The hidden file says which process holds it, and is removed with the
/// object; one that a killed run left does no harm.
class OutputLock {
 public:
  /// Creates the folder, or needs the file's. Throws std::runtime_error if that cannot be, or if
  /// the output is locked already, naming the process; this one's own locks count, too.
  OutputLock(Output kind, const std::filesystem::path& output);
  ~OutputLock();
  OutputLock(const OutputLock&) = delete;
  OutputLock& operator=(const OutputLock&) = delete;

  /// Empty where the lock is held, else why the file system gives none: the output is then used
  /// without, and nothing that others may have left there is removed.
  [[nodiscard]] const std::string& missing() const noexcept { return missing_; }

  /// Whether this process holds the output's lock: what is half-written there is then its own, or
  /// left by a dead one.
  [[nodiscard]] static bool held_here(Output kind, const std::filesystem::path& output);

 private:
  std::filesystem::path path_;  ///< of the hidden file
  std::string missing_;
  int descriptor_ = -1;
  pid_t process_ = 0;  ///< that took it: a forked child must not remove the file
};

}  // namespace llama
