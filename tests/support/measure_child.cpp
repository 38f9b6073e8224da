// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Runs a program that may open at most LIMIT files at once: measure_child LIMIT PROGRAM ARGUMENT...
// Prints "KiB N", the most anonymous memory that it was seen to have, looking every millisecond (so
// that pages of its libraries do not count), and ends with its exit code.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>

namespace {

// The anonymous resident memory of a process in KiB; 0 if it has ended.
long anonymous_memory(pid_t process) {
  std::ifstream status("/proc/" + std::to_string(process) + "/status");
  for (std::string word; status >> word;)
    if (word == "RssAnon:") {
      long kib = 0;
      status >> kib;
      return kib;
    }
  return 0;
}

}  // namespace

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
  long most = 0;
  while (waitpid(child, &status, WNOHANG) == 0) {
    const long now = anonymous_memory(child);
    if (now > most) most = now;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  std::printf("KiB %ld\n", most);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
