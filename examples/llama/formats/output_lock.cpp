// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The lock file is opened for writing, without which NFS gives no exclusive lock; folders cannot
// be.
#include "llama/formats/output_lock.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <utility>

#include "llama/formats/atomic_file.hpp"
#include "llama/formats/file_size_signal.hpp"

namespace llama {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view lock_name = ".dropbp.lock";
constexpr std::string_view text_start = "process ";

using FileId = std::pair<dev_t, ino_t>;
std::mutex held_mutex;
std::set<FileId> held;  // the lock files of this process

fs::path lock_path(Output kind, const fs::path& output) {
  if (kind == Output::folder) return output / lock_name;
  const fs::path file = resolve_output(output);
  return file.parent_path() / fmt::format(".{}{}", file.filename().string(), lock_name);
}

FileId id_of(const struct stat& status) { return {status.st_dev, status.st_ino}; }

[[noreturn]] void fail(const fs::path& path, std::string_view given) {
  throw std::runtime_error(fmt::format(
      "'{}' must be a file that this program can create and lock, so that no other run writes "
      "there, but {}; check the folder's permissions, remove that file or choose another output",
      path.string(), given));
}

/// The holder named in a lock file, "process 7 on host"; empty if it is not written yet or the file
/// is not ours.
std::string holder_in(int descriptor) {
  std::array<char, 256> buffer{};
  const ssize_t size = ::pread(descriptor, buffer.data(), buffer.size(), 0);
  std::string_view text(buffer.data(), size > 0 ? static_cast<std::size_t>(size) : 0);
  if (!text.starts_with(text_start)) return {};
  return std::string(text.substr(0, text.find('\n')));
}

/// Names the holder for the messages of other processes; failures, as on a full disk, are ignored.
void write_holder(int descriptor) {
  std::array<char, 128> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0) host[0] = '\0';
  const std::string text = fmt::format("{}{} on {}\n", text_start, ::getpid(), host.data());
  const HoldFileSizeSignal hold;
  if (::ftruncate(descriptor, 0) != 0 || ::pwrite(descriptor, text.data(), text.size(), 0) < 0) {
  }
}

int open_lock(const fs::path& path) {
  constexpr int flags = O_CLOEXEC | O_NOFOLLOW;
  int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | flags, 0666);
  // The file was left by a killed run of another user. It can still be locked, except on NFS.
  if (descriptor < 0 && errno == EACCES) descriptor = ::open(path.c_str(), O_RDONLY | flags);
  if (descriptor < 0) fail(path, std::generic_category().message(errno));
  return descriptor;
}

/// Locks without waiting. Returns 0 or the error.
int lock_now(int descriptor) {
  while (::flock(descriptor, LOCK_EX | LOCK_NB) < 0)
    if (errno != EINTR) return errno;
  return 0;
}

/// Whether the error means that the file system has no locks.
bool has_no_locks(int error) {
  return error == ENOLCK || error == ENOSYS || error == EOPNOTSUPP || error == EINVAL;
}

}  // namespace

OutputLock::OutputLock(Output kind, const fs::path& output) {
  if (kind == Output::folder) create_folder(output);
  path_ = lock_path(kind, output);
  for (;;) {
    descriptor_ = open_lock(path_);
    const auto close_and_fail = [&](std::string_view given) {
      ::close(descriptor_);
      fail(path_, given);
    };
    const int error = lock_now(descriptor_);
    if (error == EWOULDBLOCK) {
      const std::string holder = holder_in(descriptor_);
      ::close(descriptor_);
      throw std::runtime_error(fmt::format(
          "'{}' must belong to one run at a time, but {} is using it; wait for that run, or choose "
          "another {}",
          output.string(), holder.empty() ? std::string("another process") : holder,
          kind == Output::folder ? "folder" : "file"));
    }
    if (has_no_locks(error)) {
      missing_ = std::generic_category().message(error);
      ::unlink(path_.c_str());
      ::close(descriptor_);
      descriptor_ = -1;
      return;
    }
    if (error != 0) close_and_fail(std::generic_category().message(error));
    // The previous holder removed the file before it released the lock, so the locked file has no
    // name any more.
    struct stat locked{}, named{};
    if (::fstat(descriptor_, &locked) < 0) close_and_fail(std::generic_category().message(errno));
    if (::stat(path_.c_str(), &named) < 0 || id_of(locked) != id_of(named)) {
      ::close(descriptor_);
      continue;
    }
    if (!S_ISREG(locked.st_mode) || (locked.st_size > 0 && holder_in(descriptor_).empty()))
      close_and_fail("something else has that name");
    write_holder(descriptor_);
    process_ = ::getpid();
    const std::scoped_lock guard(held_mutex);
    held.insert(id_of(locked));
    return;
  }
}

OutputLock::~OutputLock() {
  if (descriptor_ < 0) return;
  struct stat locked{}, named{};
  if (process_ == ::getpid() && ::fstat(descriptor_, &locked) == 0) {
    if (::stat(path_.c_str(), &named) == 0 && id_of(locked) == id_of(named))
      ::unlink(path_.c_str());
    const std::scoped_lock guard(held_mutex);
    held.erase(id_of(locked));
  }
  ::close(descriptor_);
}

bool OutputLock::held_here(Output kind, const fs::path& output) {
  struct stat named{};
  if (::stat(lock_path(kind, output).c_str(), &named) < 0) return false;
  const std::scoped_lock guard(held_mutex);
  return held.contains(id_of(named));
}

}  // namespace llama
