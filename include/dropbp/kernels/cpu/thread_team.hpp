// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The threads behind parallel.hpp. Why not OpenMP: the barrier at the end of its regions waits for
// every thread of the team, also for one that another process keeps from running and that has
// nothing to do; how long it spins can be set by environment variables alone; and a header that is
// compiled with -fopenmp in one file and without in another is two different functions.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

#include "dropbp/base/config.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops::detail {

/// Processors that this process may run on; at least 1.
inline int usable_processors() noexcept {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
#endif
  const unsigned count = std::thread::hardware_concurrency();
  return count > 0 ? static_cast<int>(count) : 1;
}

inline void relax() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Threads that help the one that calls run(). They start when they are first wanted, spin for
/// some microseconds after each job, and then sleep.
///
/// A job is shared out by the callers of `f` among themselves (parallel.hpp). So a helper that does
/// not come in time is never missed: run() closes the job when its own call of f has returned, and
/// waits only for helpers that had begun. Everything about a job that others may change is one
/// atomic word, the gate: a job's number, how many helpers are inside, and whether it is open.
class ThreadTeam {
 public:
  /// The one team of the process.
  static ThreadTeam& instance() {
    static ThreadTeam team;
    return team;
  }

  /// Whether the calling thread is inside a job.
  static bool& inside() noexcept {
    thread_local bool value = false;
    return value;
  }

  /// f(0) here and f(1), ..., f(threads - 1) in helpers that are free, each at most once; returns
  /// when all that began have ended. While another thread's job runs, only f(0). f must not throw.
  template <class F>
  void run(int threads, const F& f) noexcept {
    const std::unique_lock one_job_at_a_time(owner_, std::try_to_lock);
    inside() = true;
    if (!one_job_at_a_time.owns_lock() || !open(threads, f)) {
      f(0);
    } else {
      f(0);
      close();
    }
    inside() = false;
  }

  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

 private:
  using Word = std::uint32_t;  // 32 bits are what a futex takes
  static constexpr Word is_open = 1, one_inside = 2, insiders = 0xFFE, one_job = 0x1000;
  // A helper that sleeps costs the next job a system call of some microseconds, one that spins
  // costs others a processor: about 20 microseconds, the time between two operations of a step.
  static constexpr int helper_spins = 600;
  static constexpr int owner_spins = 200;
  static constexpr int most_helpers = 1023;

  ThreadTeam() = default;

  ~ThreadTeam() {
    // Static objects that are destroyed after this one may still run loops: serial ones.
    inside() = true;
    ending_.store(true, std::memory_order_relaxed);
    gate_.fetch_add(one_job, std::memory_order_release);
    gate_.notify_all();
#if defined(__unix__) || defined(__APPLE__)
    if (getpid() != process_)  // after a fork: the helpers are the parent's
      for (std::thread& helper : helpers_) helper.detach();
#endif
    for (std::thread& helper : helpers_)
      if (helper.joinable()) helper.join();
  }

  template <class F>
  bool open(int threads, const F& f) noexcept {
    const int wanted = threads - 1 < most_helpers ? threads - 1 : most_helpers;
    while (static_cast<int>(helpers_.size()) < wanted) try {
        const int index = static_cast<int>(helpers_.size()) + 1;
        helpers_.emplace_back([this, index] { help(index); });
      } catch (const std::exception&) {  // no more threads, or no memory: fewer will do
        break;
      }
    if (helpers_.empty()) return false;
    call_ = [](const void* function, int index) { (*static_cast<const F*>(function))(index); };
    function_ = std::addressof(f);
    threads_ = threads;
    const Word closed = gate_.load(std::memory_order_relaxed);
    gate_.store((closed & ~is_open) + one_job + is_open, std::memory_order_release);
    gate_.notify_all();
    return true;
  }

  void close() noexcept {
    Word gate = gate_.fetch_and(~is_open, std::memory_order_acq_rel) & ~is_open;
    for (int spins = 0; (gate & insiders) != 0; ++spins) {
      if (spins < owner_spins)
        relax();
      else
        gate_.wait(gate, std::memory_order_acquire);
      gate = gate_.load(std::memory_order_acquire);
    }
  }

  void help(int index) noexcept {
    inside() = true;
    Word last = 0;  // the number of the job that this helper has seen the end of
    for (;;) {
      Word gate = gate_.load(std::memory_order_acquire);
      for (int spins = 0; (gate & is_open) == 0 || number(gate) == last; ++spins) {
        if (ending_.load(std::memory_order_relaxed)) return;
        if (spins < helper_spins)
          relax();
        else
          gate_.wait(gate, std::memory_order_acquire);
        gate = gate_.load(std::memory_order_acquire);
      }
      if (!gate_.compare_exchange_weak(gate, gate + one_inside, std::memory_order_acq_rel))
        continue;
      last = number(gate);
      if (index < threads_) call_(function_, index);
      const Word before = gate_.fetch_sub(one_inside, std::memory_order_acq_rel);
      if ((before & (insiders | is_open)) == one_inside) gate_.notify_all();
    }
  }

  static Word number(Word gate) noexcept { return gate / one_job; }

  std::mutex owner_;
  alignas(64) std::atomic<Word> gate_{0};
  alignas(64) std::atomic<bool> ending_{false};
  void (*call_)(const void*, int) = nullptr;
  const void* function_ = nullptr;
  int threads_ = 0;
  std::vector<std::thread> helpers_;
#if defined(__unix__) || defined(__APPLE__)
  pid_t process_ = getpid();
#endif
};

}  // namespace ops::detail
DROPBP_NAMESPACE_END
