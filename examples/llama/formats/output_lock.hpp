// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Locks: an output belongs to one run at a time.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>

namespace llama {

enum class Output { folder, file };

/// Locks an output folder or file for the lifetime of the object. It is a system lock (flock) on a
/// hidden file, `.dropbp.lock` in the folder or `.NAME.dropbp.lock` beside the file. The system
/// releases it when the process ends, so it is never stale. Two paths to the same place share one
/// lock. The hidden file names the process that holds it and is removed with the object; one that a
/// killed run left is harmless.
class OutputLock {
 public:
  /// Creates an output folder; the folder of an output file must exist. Throws std::runtime_error
  /// if that fails or if the output is locked already, by another process, which is named, or by
  /// this one.
  OutputLock(Output kind, const std::filesystem::path& output);
  ~OutputLock();
  OutputLock(const OutputLock&) = delete;
  OutputLock& operator=(const OutputLock&) = delete;

  /// Empty if the lock is held, otherwise why the file system has no locks. The output is then used
  /// without a lock, and temporary files of other processes are not removed.
  [[nodiscard]] const std::string& missing() const noexcept { return missing_; }

  /// Whether this process holds the output's lock. Temporary files there then belong to it or to
  /// processes that have ended.
  [[nodiscard]] static bool held_here(Output kind, const std::filesystem::path& output);

 private:
  std::filesystem::path path_;  ///< of the hidden file
  std::string missing_;
  int descriptor_ = -1;
  pid_t process_ = 0;  ///< the process that took the lock: a forked child must not remove the file
};

}  // namespace llama
