// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// InputFile on POSIX open, fstat and pread.
#include "input_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

namespace llama {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const std::string& reason) {
  throw std::runtime_error(
      fmt::format("'{}' must be a readable file, but {}; check the path and its permissions", path.string(), reason));
}

}  // namespace

InputFile::InputFile(std::filesystem::path path) : path_(std::move(path)) {
  // O_NONBLOCK: opening a pipe that nobody writes to would wait for ever; regular files ignore it.
  descriptor_ = ::open(path_.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (descriptor_ < 0) fail(path_, fmt::format("opening it failed: {}", std::generic_category().message(errno)));
  struct stat status {};
  if (::fstat(descriptor_, &status) < 0 || !S_ISREG(status.st_mode)) {
    ::close(descriptor_);
    fail(path_, S_ISDIR(status.st_mode) ? "it is a folder" : "it is not a regular file");
  }
  size_ = static_cast<std::uint64_t>(status.st_size);
}

InputFile::~InputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

InputFile::InputFile(InputFile&& other) noexcept
    : path_(std::move(other.path_)), size_(other.size_), descriptor_(std::exchange(other.descriptor_, -1)) {}

void InputFile::read(std::uint64_t offset, void* bytes, std::size_t size) const {
  auto* next = static_cast<char*>(bytes);
  constexpr std::size_t largest_read = std::size_t{1} << 30;  // one pread(2) moves at most 2 GiB on Linux
  while (size > 0) {
    const ssize_t got = ::pread(descriptor_, next, std::min(size, largest_read), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0)
      fail(path_, fmt::format("reading {} bytes at offset {} failed: {}", size, offset,
                              std::generic_category().message(errno)));
    if (got == 0)
      fail(path_, fmt::format("it ends {} bytes too early, at offset {}: it was cut while being read", size, offset));
    next += got;
    offset += static_cast<std::uint64_t>(got);
    size -= static_cast<std::size_t>(got);
  }
}

}  // namespace llama
