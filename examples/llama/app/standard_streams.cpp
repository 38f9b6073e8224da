// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

#include "llama/app/standard_streams.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <system_error>

#include <fmt/format.h>

namespace llama {
namespace {

/// Whether a write failed with `error` because the reader is gone.
bool reader_is_gone(int error) {
  struct stat status{};
  return error == EPIPE ||
         (error == EIO && ::fstat(STDOUT_FILENO, &status) == 0 && S_ISCHR(status.st_mode));
}

const char* program_name = "llama";
bool silent = false;

}  // namespace

void open_standard_streams(const char* program) {
  program_name = program;
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (::fcntl(stream, F_GETFD) < 0 && errno == EBADF)
      if (::open("/dev/null", stream == STDIN_FILENO ? O_WRONLY : O_RDONLY) != stream) std::abort();
}

void silence() { silent = true; }

void say(std::string_view text) {
  if (silent) return;
  const std::string line = fmt::format("{}: {}\n", program_name, text);
  std::fwrite(line.data(), 1, line.size(), stderr);
}

void print(std::string_view text) {
  if (silent) return;
  const bool written =
      std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  const int error = errno;
  if (!written && !reader_is_gone(error))
    throw std::runtime_error(
        fmt::format("the result must be written to the standard output, but that failed: {}; print "
                    "to a terminal, to a pipe, or to a file on a disk with free space",
                    std::generic_category().message(error)));
}

}  // namespace llama
