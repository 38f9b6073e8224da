// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What the fuzz targets share. Each is a function of an input's bytes: it returns if the code under
// test behaved, also when it refused the input with its own exceptions, and aborts otherwise.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>

/// Called by libFuzzer and by replay.cpp.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace fuzz {

/// A finding. libFuzzer writes the input to a file when the program aborts.
[[noreturn]] inline void fail(const std::string& what) {
  std::fprintf(stderr, "FINDING: %s\n", what.c_str());
  std::abort();
}

inline void require(bool holds, const std::string& what) {
  if (!holds) fail(what);
}

inline std::string_view text_of(const std::uint8_t* data, std::size_t size) {
  return size == 0 ? std::string_view()
                   : std::string_view(reinterpret_cast<const char*>(data), size);
}

/// Whether the call returns; false if it throws one of the exceptions, which must have a message.
/// All others leave the target.
template <class... Refusals>
bool accepts(auto&& call) {
  const auto is_refusal = [](const std::exception& error) {
    return ((dynamic_cast<const Refusals*>(&error) != nullptr) || ...);
  };
  try {
    call();
    return true;
  } catch (const std::exception& error) {
    if (!is_refusal(error)) throw;
    require(error.what()[0] != '\0', "a refusal without a message");
    return false;
  }
}

/// A regular file in memory, which the readers open by its path.
class MemoryFile {
 public:
  MemoryFile() : descriptor_(memfd_create("fuzz", MFD_CLOEXEC)) {
    if (descriptor_ < 0) throw std::runtime_error("memfd_create failed");
  }
  explicit MemoryFile(std::string_view bytes) : MemoryFile() { write(bytes); }
  ~MemoryFile() { ::close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  void write(std::string_view bytes) const {
    if (::ftruncate(descriptor_, 0) != 0 ||
        ::pwrite(descriptor_, bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
      throw std::runtime_error("writing to a memfd failed");
  }
  [[nodiscard]] std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

 private:
  int descriptor_;
};

/// A folder, in memory if the system has one there.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    path_ = (::access("/dev/shm", W_OK) == 0 ? std::filesystem::path("/dev/shm")
                                             : std::filesystem::temp_directory_path()) /
            "dropbp-fuzz-XXXXXX";
    if (::mkdtemp(path_.data()) == nullptr) throw std::runtime_error("no temporary folder");
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

/// Takes numbers and texts off the front of an input; behind its end all are zero or empty.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : rest_(text_of(data, size)) {}

  template <class Number>
    requires std::is_arithmetic_v<Number>
  Number take() {
    Number number{};
    const std::size_t size = rest_.size() < sizeof number ? rest_.size() : sizeof number;
    if (size > 0) std::memcpy(&number, rest_.data(), size);
    rest_.remove_prefix(size);
    return number;
  }
  /// A number below `bound`, of one byte.
  std::size_t below(std::size_t bound) { return take<std::uint8_t>() % bound; }
  /// Up to `end`, which is taken too.
  std::string_view until(char end) {
    const std::size_t size = rest_.find(end);
    const std::string_view text = rest_.substr(0, size);
    rest_.remove_prefix(size == rest_.npos ? rest_.size() : size + 1);
    return text;
  }
  [[nodiscard]] std::string_view rest() const { return rest_; }
  [[nodiscard]] bool empty() const { return rest_.empty(); }

 private:
  std::string_view rest_;
};

}  // namespace fuzz
