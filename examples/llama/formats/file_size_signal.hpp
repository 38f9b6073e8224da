// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Makes writes beyond the file size limit fail instead of ending the program.
#pragma once

#include <cerrno>
#include <csignal>
#include <ctime>

namespace llama {

/// A write beyond RLIMIT_FSIZE raises SIGXFSZ, which ends the program by default. While an object
/// of this class blocks it, the write returns EFBIG.
class HoldFileSizeSignal {
 public:
  HoldFileSizeSignal() {
    sigemptyset(&signal_);
    sigaddset(&signal_, SIGXFSZ);
    pthread_sigmask(SIG_BLOCK, &signal_, &before_);
  }
  ~HoldFileSizeSignal() {
    const int error = errno;
    if (sigismember(&before_, SIGXFSZ) == 0) {
      const timespec no_wait{};
      while (sigtimedwait(&signal_, nullptr, &no_wait) < 0 && errno == EINTR) {
      }
    }
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
    errno = error;
  }
  HoldFileSizeSignal(const HoldFileSizeSignal&) = delete;
  HoldFileSizeSignal& operator=(const HoldFileSizeSignal&) = delete;

 private:
  sigset_t signal_{};
  sigset_t before_{};
};

}  // namespace llama
