// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// One file of a program whose files are compiled in different ways. PART_NAME is the prefix of its
// two functions: one hashes 1,000 plans, the other returns whether errors arrive as this file's
// mode documents.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <stdexcept>
#include <vector>

#include "dropbp/dropbp.hpp"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

extern "C" std::uint64_t JOIN(PART_NAME, _decisions)();
extern "C" bool JOIN(PART_NAME, _errors)();

extern "C" std::uint64_t JOIN(PART_NAME, _decisions)() {
  const dropbp::DropSchedule<dropbp::FixedBudgetSampling> schedule(std::vector<double>(40, 2.0),
                                                                   {.drop_rate = 0.4, .seed = 9});
  std::uint64_t hash = 0xcbf29ce484222325u;
  dropbp::DropPlan plan;
  for (std::uint64_t step = 0; step < 1000; ++step) {
    schedule.draw(step, 0, plan);
    hash = (hash ^ plan.fingerprint()) * 0x100000001b3u;
  }
  return hash;
}

namespace {
void wrong_use() { dropbp::DropSchedule<>({1.0}, {.drop_rate = 2.0}); }
}  // namespace

#if DROPBP_EXCEPTIONS
extern "C" bool JOIN(PART_NAME, _errors)() {
  try {
    wrong_use();
  } catch (const std::invalid_argument&) {
    return true;
  }
  return false;
}
#else
namespace {
// Runs `call` in a process of its own and returns how that ended.
template <class Call>
int status_of(Call call) {
  const pid_t child = fork();
  if (child == 0) {
    call();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}
void leave(dropbp::ErrorKind kind, const char* sentence) {
  _exit(kind == dropbp::ErrorKind::argument && sentence[0] == 'd' ? 42 : 1);
}
void come_back(dropbp::ErrorKind, const char*) {}
}  // namespace

extern "C" bool JOIN(PART_NAME, _errors)() {
  const auto with = [](dropbp::ErrorHandler handler) {
    return status_of([&] {
      dropbp::set_error_handler(handler);
      wrong_use();
    });
  };
  const int left = with(leave), back = with(come_back), none = with(nullptr);
  return WIFEXITED(left) && WEXITSTATUS(left) == 42 && WIFSIGNALED(back) && WIFSIGNALED(none);
}
#endif
