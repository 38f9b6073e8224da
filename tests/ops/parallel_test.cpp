// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

#include "dropbp/kernels/cpu/parallel.hpp"

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <thread>
#include <vector>

#if defined(__unix__)
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

#include "ops/ops_test.hpp"

namespace dropbp::test {
namespace {

constexpr ops::Index much = 1 << 20;  // enough work to use threads

// Returns how often f was called with each i.
std::vector<int> calls_of(ops::Index count, ops::Index work, bool tasks) {
  std::vector<std::atomic<int>> calls(static_cast<std::size_t>(count));
  const auto call = [&](ops::Index i) { ++calls[static_cast<std::size_t>(i)]; };
  if (tasks)
    ops::parallel_tasks(count, work, call);
  else
    ops::parallel_for(count, work, call);
  return {calls.begin(), calls.end()};
}

TEST_CASE("Parallel loops call f once for every index") {
  const ThreadsGuard guard;
  for (const int threads : {1, 2, 3, 8, 70}) {
    use_threads(threads);
    for (const ops::Index count : {0, 1, 2, 3, 7, 63, 64, 65, 1000})
      for (const ops::Index work : {ops::Index(0), ops::Index(1), ops::Index(100), much})
        for (const bool tasks : {false, true}) {
          CAPTURE(threads, count, work, tasks);
          CHECK(calls_of(count, work, tasks) == std::vector<int>(std::size_t(count), 1));
        }
  }
}

TEST_CASE("Sleeping helper threads wake up") {
  const ThreadsGuard guard;
  use_threads(3);
  for (int round = 0; round < 50; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(round % 3));
    // Each call waits until all three run, so the loop ends only if the helpers take part.
    std::atomic<int> running{0};
    ops::parallel_tasks(3, much, [&](ops::Index) {
      ++running;
      while (running < 3) std::this_thread::yield();
    });
    CHECK(running == 3);
  }
}

TEST_CASE("A loop inside a loop is serial") {
  const ThreadsGuard guard;
  use_threads(2);
  std::atomic<int> inner{0}, wrong{0};
  ops::parallel_for(4, much, [&](ops::Index) {
    if (!ops::in_parallel() || ops::thread_count() != 1) ++wrong;
    const auto here = std::this_thread::get_id();
    ops::parallel_for(8, much, [&](ops::Index) {
      ++inner;
      if (std::this_thread::get_id() != here) ++wrong;
    });
  });
  CHECK(inner == 32);
  CHECK(wrong == 0);
  CHECK_FALSE(ops::in_parallel());
}

TEST_CASE("While one thread's loop uses the helpers, another thread's loop is serial") {
  const ThreadsGuard guard;
  use_threads(2);
  std::atomic<bool> begun{false}, may_end{false};
  std::thread other([&] {
    ops::parallel_for(2, much, [&](ops::Index) {
      begun = true;
      while (!may_end) std::this_thread::yield();
    });
  });
  while (!begun) std::this_thread::yield();
  CHECK(calls_of(100, much, false) == std::vector<int>(100, 1));  // ends, although `other` cannot
  may_end = true;
  other.join();
}

#if defined(__unix__)
std::atomic<bool> held{false}, release{false};

// Blocks every thread but the caller's until `release` is set.
void hold(int) {
  held = true;
  while (!release) usleep(100);
}

TEST_CASE("A loop does not wait for a helper that does not run") {
  const ThreadsGuard guard;
  use_threads(2);
  const pthread_t owner = pthread_self();
  std::atomic<int> running{0};
  pthread_t helper{};
  ops::parallel_tasks(2, much, [&](ops::Index) {
    if (!pthread_equal(pthread_self(), owner)) helper = pthread_self();
    ++running;
    while (running < 2) std::this_thread::yield();
  });
  // The helper stops between two loops, as if another process had its processor.
  held = release = false;
  struct sigaction action{}, before{};
  action.sa_handler = hold;
  REQUIRE(sigaction(SIGUSR1, &action, &before) == 0);
  REQUIRE(pthread_kill(helper, SIGUSR1) == 0);
  while (!held) std::this_thread::yield();
  for (int round = 0; round < 100; ++round)
    CHECK(calls_of(100, much, round % 2 == 0) == std::vector<int>(100, 1));
  release = true;
  CHECK(sigaction(SIGUSR1, &before, nullptr) == 0);
}

// Set in a child that leaves what it finds as its exit code.
bool looks_at_exit = false;
// Registered before the first loop, it runs after the end of the helpers: as the destructor of a
// static object may.
[[maybe_unused]] const int registered = std::atexit([] {
  if (!looks_at_exit) return;
  ops::set_thread_count(4);
  const bool serial = ops::thread_count() == 1;
  std::_Exit(serial && calls_of(100, much, false) == std::vector<int>(100, 1) ? 7 : 8);
});

TEST_CASE("A loop that runs at the exit, after the helpers have ended, is serial") {
  const ThreadsGuard guard;
  use_threads(2);
  CHECK(calls_of(100, much, false) == std::vector<int>(100, 1));
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    looks_at_exit = true;
    std::exit(0);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 7);
}

TEST_CASE("After a fork the child's loops end, and the child exits") {
  const ThreadsGuard guard;
  use_threads(2);
  CHECK(calls_of(100, much, false) == std::vector<int>(100, 1));
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);  // kills a child that hangs, which fails the test
    std::exit(calls_of(100, much, false) == std::vector<int>(100, 1) ? 7 : 8);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 7);
}
#endif

}  // namespace
}  // namespace dropbp::test
