// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Runs a function in a child process and kills it, or makes a system call on files fail, at any
// point.
#pragma once

#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <sys/user.h>
#endif

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <functional>
#include <stdexcept>
#include <string_view>

namespace test {

// Exit codes of a forked child.
inline constexpr int done = 0, refused = 42, surprised = 43;

/// Runs `function` in a child and ends it: `refused` for a std::runtime_error that contains
/// `message`.
[[noreturn]] inline void run_and_exit(const std::function<void()>& function,
                                      std::string_view message) {
  try {
    function();
  } catch (const std::runtime_error& error) {
    _exit(std::string_view(error.what()).find(message) != std::string_view::npos ? refused
                                                                                 : surprised);
  } catch (...) {
    _exit(surprised);
  }
  _exit(done);
}

#if defined(__x86_64__) && defined(__linux__)

enum class Fault { kill, io_error, no_space, short_write };

inline bool is_file_call(unsigned long long number) {
  switch (number) {
    case SYS_openat:
    case SYS_open:
    case SYS_write:
    case SYS_writev:
    case SYS_pread64:
    case SYS_read:
    case SYS_fsync:
    case SYS_fdatasync:
    case SYS_rename:
    case SYS_renameat:
    case SYS_renameat2:
    case SYS_close:
    case SYS_mkdir:
    case SYS_mkdirat:
    case SYS_fchmod:
    case SYS_stat:
    case SYS_lstat:
    case SYS_fstat:
    case SYS_newfstatat:
    case SYS_statx:
    case SYS_unlink:
    case SYS_unlinkat:
    case SYS_getdents64:
    case SYS_flock:
      return true;
    default:
      return false;
  }
}

struct Outcome {
  bool reached = false;  ///< there was an n-th file system call
  int status = 0;        ///< of waitpid
  unsigned long long number = 0;
};

/// Runs `function` in a traced child and strikes at its n-th system call on files, before it is
/// carried out.
inline Outcome run_with_fault(const std::function<void()>& function, Fault fault, std::size_t n) {
  const pid_t child = fork();
  if (child == 0) {
    if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) _exit(99);
    raise(SIGSTOP);
    run_and_exit(function, "");
  }
  Outcome outcome;
  waitpid(child, &outcome.status, 0);
  if (!WIFSTOPPED(outcome.status)) return outcome;
  ptrace(PTRACE_SETOPTIONS, child, nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
  bool entering = true, replace_result = false;
  std::size_t seen = 0;
  int signal = 0;
  while (true) {
    ptrace(PTRACE_SYSCALL, child, nullptr, signal);
    signal = 0;
    waitpid(child, &outcome.status, 0);
    if (WIFEXITED(outcome.status) || WIFSIGNALED(outcome.status)) return outcome;
    if (WSTOPSIG(outcome.status) != (SIGTRAP | 0x80)) {
      signal = WSTOPSIG(outcome.status);
      continue;
    }
    user_regs_struct registers{};
    ptrace(PTRACE_GETREGS, child, nullptr, &registers);
    if (entering && is_file_call(registers.orig_rax) && seen++ == n) {
      outcome.reached = true;
      outcome.number = registers.orig_rax;
      if (fault == Fault::kill) {
        kill(child, SIGKILL);
      } else if (fault == Fault::short_write) {
        if (registers.orig_rax == SYS_write) registers.rdx = (registers.rdx + 1) / 2;
        ptrace(PTRACE_SETREGS, child, nullptr, &registers);
      } else {
        registers.orig_rax = ~0ull;  // no such call; its result is set at the exit
        ptrace(PTRACE_SETREGS, child, nullptr, &registers);
        replace_result = true;
      }
    } else if (!entering && replace_result) {
      registers.rax = static_cast<unsigned long long>(fault == Fault::io_error ? -EIO : -ENOSPC);
      ptrace(PTRACE_SETREGS, child, nullptr, &registers);
      replace_result = false;
    }
    entering = !entering;
  }
}

#endif

}  // namespace test
