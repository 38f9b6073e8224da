// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

#include "llama/app/interrupts.hpp"

#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <string_view>

namespace llama {
namespace {

volatile std::sig_atomic_t interrupted = 0;  // the signal; 0 for none

constexpr std::string_view stopping =
    "\nllama-finetune: stopping after this step; Ctrl-C once more ends at once\n";

// The first signal ends the training after the current step, so that its results are saved. A
// second Ctrl-C ends the program at once; SIGTERM and SIGHUP do not, because timeout(1), shells and
// job schedulers send them twice.
extern "C" void on_interrupt(int signal) {
  if (interrupted == 0) {
    interrupted = signal;
    const int error = errno;
    if (signal == SIGINT && ::write(STDERR_FILENO, stopping.data(), stopping.size()) < 0) {
    }
    errno = error;
  } else if (signal == SIGINT) {
    std::signal(SIGINT, SIG_DFL);
    std::raise(SIGINT);
  }
}

}  // namespace

int interrupting_signal() noexcept { return interrupted; }

void catch_interrupts() {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction now{};
    // A signal that was ignored from the start, as by nohup, stays ignored.
    if (::sigaction(signal, nullptr, &now) == 0 && now.sa_handler != SIG_IGN)
      std::signal(signal, on_interrupt);
  }
}

}  // namespace llama
