// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// InputFile on POSIX open, fstat and mmap, with a guard against SIGBUS.
#include "llama/formats/input_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

namespace llama {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const std::string& reason) {
  throw std::runtime_error(
      fmt::format("'{}' must be a readable file, but {}; check the path and its permissions",
                  path.string(), reason));
}

/// The copy that this thread is making from a map; null if none.
struct Guard {
  const char* begin;
  const char* end;
  sigjmp_buf back;
};
thread_local Guard* volatile guard = nullptr;
struct sigaction previous_action;

void on_bus_error(int signal, siginfo_t* info, void* context) {
  const auto* const address = static_cast<const char*>(info->si_addr);
  if (Guard* const mine = guard; mine != nullptr && address >= mine->begin && address < mine->end)
    siglongjmp(mine->back, 1);
  if ((previous_action.sa_flags & SA_SIGINFO) != 0)
    return previous_action.sa_sigaction(signal, info, context);
  if (previous_action.sa_handler != SIG_DFL && previous_action.sa_handler != SIG_IGN)
    return previous_action.sa_handler(signal);
  std::signal(signal,
              SIG_DFL);  // the access is repeated on return and ends the program
}

bool install_guard() {
  struct sigaction action{};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigemptyset(&action.sa_mask);
  return sigaction(SIGBUS, &action, &previous_action) == 0;
}

/// memcpy that returns false if a page of `from` cannot be read. The jump must not skip a
/// destructor, so there is none here.
bool guarded_copy(void* to, const char* from, std::size_t size) {
  Guard mine;
  mine.begin = from;
  mine.end = from + size;
  if (sigsetjmp(mine.back, 0) != 0) {
    guard = nullptr;
    return false;
  }
  guard = &mine;
  std::atomic_signal_fence(std::memory_order_seq_cst);  // keeps the copy between the fences
  std::memcpy(to, from, size);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  guard = nullptr;
  return true;
}

}  // namespace

InputFile::InputFile(std::filesystem::path path) : path_(std::move(path)) {
  static const bool guarded = install_guard();
  // Without O_NONBLOCK, opening a pipe without a writer waits for ever; regular files ignore it.
  descriptor_ = ::open(path_.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (descriptor_ < 0)
    fail(path_, fmt::format("opening it failed: {}", std::generic_category().message(errno)));
  const auto refuse = [this](const std::string& reason) {
    ::close(descriptor_);
    fail(path_, reason);
  };
  struct stat status{};
  if (::fstat(descriptor_, &status) < 0 || !S_ISREG(status.st_mode))
    refuse(S_ISDIR(status.st_mode) ? "it is a folder" : "it is not a regular file");
  size_ = static_cast<std::uint64_t>(status.st_size);
  if (size_ == 0) return;  // an empty file cannot be mapped
  if (!guarded || !std::in_range<std::size_t>(size_))
    refuse("it cannot be mapped into memory safely");
  void* const map =
      ::mmap(nullptr, static_cast<std::size_t>(size_), PROT_READ, MAP_PRIVATE, descriptor_, 0);
  if (map == MAP_FAILED)
    refuse(fmt::format("mapping it failed: {}", std::generic_category().message(errno)));
  map_ = static_cast<const char*>(map);
}

InputFile::~InputFile() {
  if (map_ != nullptr) ::munmap(const_cast<char*>(map_), static_cast<std::size_t>(size_));
  if (descriptor_ >= 0) ::close(descriptor_);
}

InputFile::InputFile(InputFile&& other) noexcept
    : path_(std::move(other.path_)),
      size_(other.size_),
      descriptor_(std::exchange(other.descriptor_, -1)),
      map_(std::exchange(other.map_, nullptr)) {}

void InputFile::read(std::uint64_t offset, void* bytes, std::size_t size) const {
  if (size == 0) return;
  const bool inside = offset <= size_ && size <= size_ - offset;
  bool whole = inside && guarded_copy(bytes, map_ + offset, size);
  // The last page is readable beyond the end of the file, as zeros, so a file that was cut within
  // it raises no signal: compare the size.
  struct stat status{};
  whole = whole && ::fstat(descriptor_, &status) == 0 &&
          static_cast<std::uint64_t>(status.st_size) >= offset + size;
  if (!whole)
    fail(
        path_,
        fmt::format(
            "{} bytes at offset {} cannot be read: it was cut while being read, or the disk failed",
            size, offset));
}

}  // namespace llama
