// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The save protocol on POSIX system calls, because neither iostreams nor std::filesystem can fsync.
#include "llama/formats/atomic_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <system_error>

#include "llama/formats/file_size_signal.hpp"

namespace llama {
namespace {

constexpr std::string_view temporary_end = ".tmp";

[[noreturn]] void fail(const std::filesystem::path& path, std::string_view action, int error) {
  const char* advice = error == ENOSPC || error == EDQUOT || error == EFBIG
                           ? "free some space or write elsewhere"
                           : "check the path, its permissions and the disk";
  throw std::runtime_error(
      fmt::format("'{}' must be written whole, but {} failed: {} (the file that was there before, "
                  "if any, is unchanged); {}",
                  path.string(), action, std::generic_category().message(error), advice));
}

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

void sync_folder(const std::filesystem::path& path) {
  const int folder = ::open(folder_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) fail(path, "opening its folder", errno);
  const int result = ::fsync(folder);
  const int error = errno;
  ::close(folder);
  // EINVAL and EROFS mean that the file system cannot sync a folder, which is no error.
  if (result < 0 && error != EINVAL && error != EROFS) fail(path, "fsync of its folder", error);
}

/// A unique name: the random bits distinguish machines and containers that share the folder.
std::filesystem::path new_temporary_of(const std::filesystem::path& path) {
  std::uint32_t bits = 0;
  if (::getentropy(&bits, sizeof bits) != 0) bits = static_cast<std::uint32_t>(std::rand());
  std::filesystem::path temporary = path;
  temporary += fmt::format(".{}-{:08x}{}", ::getpid(), bits, temporary_end);
  return temporary;
}

}  // namespace

std::filesystem::path resolve_output(const std::filesystem::path& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) {
    throw std::runtime_error(fmt::format(
        "'{}' must be a regular file or not exist yet, but it is {}; give the name of a file",
        path.string(),
        std::filesystem::is_directory(status) ? "a folder" : "a device, pipe or socket"));
  }
  if (std::filesystem::is_symlink(path, error) && std::filesystem::exists(status)) {
    const auto target = std::filesystem::canonical(path, error);
    if (!error) return target;
  }
  return path;
}

std::string_view final_name(std::string_view name) noexcept {
  if (!name.ends_with(temporary_end)) return name;
  std::string_view rest = name.substr(0, name.size() - temporary_end.size());
  const std::string_view older = rest;
  const auto drop = [&rest](std::string_view characters) {
    const std::size_t before = rest.size();
    while (!rest.empty() && characters.find(rest.back()) != std::string_view::npos)
      rest.remove_suffix(1);
    return before - rest.size();
  };
  const auto drop_one = [&rest](char c) {
    if (!rest.ends_with(c)) return false;
    rest.remove_suffix(1);
    return true;
  };
  const bool ours = drop("0123456789abcdef") == 8 && drop_one('-') && drop("0123456789") > 0 &&
                    drop_one('.') && !rest.empty();
  return ours ? rest : older;
}

bool is_temporary(std::string_view name) noexcept { return final_name(name) != name; }

std::vector<std::filesystem::path> temporaries_in(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> found;
  std::error_code ignored;
  std::filesystem::directory_iterator walk(folder, ignored);
  for (; !ignored && walk != std::filesystem::directory_iterator(); walk.increment(ignored))
    if (is_temporary(walk->path().filename().string())) found.push_back(walk->path());
  std::ranges::sort(found);
  return found;
}

void remove_temporaries(const std::filesystem::path& folder,
                        const std::function<bool(std::string_view)>& of) {
  std::error_code ignored;
  for (const std::filesystem::path& path : temporaries_in(folder))
    if (of(final_name(path.filename().string()))) std::filesystem::remove(path, ignored);
}

void create_folder(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  std::error_code ignored;
  if (!std::filesystem::is_directory(folder, ignored)) {
    throw std::runtime_error(fmt::format(
        "'{}' must be a folder that can be created, but {}; choose another one", folder.string(),
        error ? error.message() : std::string("something else has that name")));
  }
}

AtomicFile::AtomicFile(const std::filesystem::path& path) : path_(resolve_output(path)) {
  // O_EXCL opens no existing file and follows no symbolic link.
  do {
    temporary_ = new_temporary_of(path_);
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (descriptor_ < 0 && errno == EEXIST);
  if (descriptor_ < 0) fail(path_, fmt::format("creating '{}'", temporary_.string()), errno);
  struct stat old{};
  if (::stat(path_.c_str(), &old) == 0 && ::fchmod(descriptor_, old.st_mode & 07777) < 0) {
    const int error = errno;
    discard();
    fail(path_, "keeping its permissions", error);
  }
}

AtomicFile::~AtomicFile() {
  if (!published_ && !(finished_ && keep_temporary_)) discard();
}

void AtomicFile::discard() noexcept {
  if (descriptor_ >= 0) ::close(descriptor_);
  descriptor_ = -1;
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* bytes, std::size_t size) {
  if (descriptor_ < 0)
    throw std::logic_error("AtomicFile: write() must come before finish() and publish()");
  const HoldFileSizeSignal hold;
  const auto* next = static_cast<const char*>(bytes);
  constexpr std::size_t largest_write = std::size_t{1}
                                        << 30;  // one write(2) moves at most 2 GiB on Linux
  while (size > 0) {
    const ssize_t written = ::write(descriptor_, next, std::min(size, largest_write));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail(path_, fmt::format("writing '{}'", temporary_.string()), errno);
    if (written == 0) fail(path_, fmt::format("writing '{}'", temporary_.string()), ENOSPC);
    next += written;
    size -= static_cast<std::size_t>(written);
  }
}

void AtomicFile::finish() {
  if (finished_) return;
  if (::fsync(descriptor_) < 0)
    fail(path_, fmt::format("fsync of '{}'", temporary_.string()), errno);
  const int result = ::close(descriptor_);
  descriptor_ = -1;
  if (result < 0) fail(path_, fmt::format("closing '{}'", temporary_.string()), errno);
  sync_folder(path_);
  finished_ = true;
}

void AtomicFile::publish() {
  if (published_) return;
  finish();
  if (::rename(temporary_.c_str(), path_.c_str()) < 0)
    fail(path_, fmt::format("renaming '{}'", temporary_.string()), errno);
  published_ = true;
  sync_folder(path_);
}

void rename_durably(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (::rename(from.c_str(), to.c_str()) < 0)
    fail(to, fmt::format("renaming '{}'", from.string()), errno);
  sync_folder(to);
}

void remove_durably(const std::filesystem::path& path) {
  if (::unlink(path.c_str()) < 0 && errno != ENOENT) fail(path, "removing it", errno);
  sync_folder(path);
}

void write_file_atomically(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.publish();
}

void check_writable(const std::filesystem::path& path) { const AtomicFile probe(path); }

}  // namespace llama
