// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Runs a program that may open at most LIMIT files at once: measure_child LIMIT PROGRAM ARGUMENT...
// Prints "KiB N", the largest memory that it had resident, and ends with its exit code.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const rlimit files{static_cast<rlim_t>(std::atoi(argv[1])),
                     static_cast<rlim_t>(std::atoi(argv[1]))};
  const pid_t child = fork();
  if (child == 0) {
    setrlimit(RLIMIT_NOFILE, &files);
    execv(argv[2], argv + 2);
    _exit(127);
  }
  int status = 0;
  rusage usage{};
  if (wait4(child, &status, 0, &usage) != child) return 1;
  std::printf("KiB %ld\n", usage.ru_maxrss);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
