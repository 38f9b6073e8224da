// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The threads of parallel.hpp, and how long they spin. Three reasons against OpenMP: the barrier at
// the end of a region waits for every thread of the team, even for a thread without work that
// another process keeps from running; only environment variables set how long the barrier spins;
// and a header that is compiled with -fopenmp in one file and without it in another violates the
// one-definition rule.
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

/// Number of processors that this process may use; at least 1.
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

/// A team of helper threads that serve the thread that calls run(). The helpers start when they are
/// first needed. After each job they spin for half a millisecond, then sleep.
///
/// The calls of `f` divide the job among themselves (parallel.hpp), so a late helper delays
/// nothing: run() closes the job when its own call of f has returned, and waits only for helpers
/// that have begun. All shared state of a job is in one atomic word, the gate: the job's number,
/// the number of helpers inside, and whether the job is open.
class ThreadTeam {
 public:
  /// The only team of the process.
  static ThreadTeam& instance() {
    static ThreadTeam team;
    return team;
  }

  /// Whether the calling thread is inside a job.
  static bool& inside() noexcept {
    thread_local bool value = false;
    return value;
  }

  /// Calls f(0) in this thread, and f(1), ..., f(threads - 1) in free helpers, each at most once.
  /// Returns when all calls that have begun have ended. While another thread's job runs, calls only
  /// f(0). f must not throw.
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

  /// Number of jobs so far, modulo 2^20: to count the barriers of a computation.
  std::uint32_t jobs() const noexcept { return number(gate_.load(std::memory_order_relaxed)); }

  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

 private:
  using Word = std::uint32_t;  // the size of a futex
  static constexpr Word is_open = 1, one_inside = 2, insiders = 0xFFE, one_job = 0x1000;
  // How long a thread spins before it sleeps: half a millisecond (a pause takes 25 ns on AMD Zen
  // 4), longer than the serial code between two operations of a step. Measured there, a step of 420
  // ms on two threads: 10 % longer with 15 microseconds, the same with 2.5 ms.
  static constexpr int most_spins = 20000;
  static constexpr int most_helpers = 1023;

  ThreadTeam() = default;

  ~ThreadTeam() {
    // Static objects that are destroyed after this one may still run loops: serial ones.
    inside() = true;
    ending_.store(true, std::memory_order_relaxed);
    gate_.fetch_add(one_job, std::memory_order_release);
    gate_.notify_all();
#if defined(__unix__) || defined(__APPLE__)
    // After a fork the helpers exist only in the parent: here they can be neither joined nor
    // detached, so their handles stay as they are.
    if (getpid() != process_) return;
#endif
    for (std::thread& helper : *helpers_) helper.join();
    delete helpers_;
  }

  template <class F>
  bool open(int threads, const F& f) noexcept {
    const int wanted = threads - 1 < most_helpers ? threads - 1 : most_helpers;
    while (static_cast<int>(helpers_->size()) < wanted) try {
        const int index = static_cast<int>(helpers_->size()) + 1;
        helpers_->emplace_back([this, index] { help(index); });
      } catch (const std::exception&) {  // out of threads or memory: continue with fewer helpers
        break;
      }
    if (helpers_->empty()) return false;
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
      if (spins < most_spins)
        relax();
      else
        gate_.wait(gate, std::memory_order_acquire);
      gate = gate_.load(std::memory_order_acquire);
    }
  }

  void help(int index) noexcept {
    inside() = true;
    Word last = 0;  // number of the last job that this helper joined
    for (;;) {
      Word gate = gate_.load(std::memory_order_acquire);
      for (int spins = 0; (gate & is_open) == 0 || number(gate) == last; ++spins) {
        if (ending_.load(std::memory_order_relaxed)) return;
        if (spins < most_spins)
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
  std::vector<std::thread>* const helpers_ = new std::vector<std::thread>;  // see ~ThreadTeam
#if defined(__unix__) || defined(__APPLE__)
  pid_t process_ = getpid();
#endif
};

}  // namespace ops::detail
DROPBP_NAMESPACE_END
