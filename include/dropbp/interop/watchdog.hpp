// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Ends a job in which a step takes too long: a rank is stuck, or waits for one that is.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "dropbp/base/error.hpp"

DROPBP_NAMESPACE_BEGIN

/// A thread that calls `end(sentence)` once where a step lasts longer than the deadline. The time
/// in which this process itself was stopped (a debugger, a suspended machine) does not count.
class Watchdog {
 public:
  /// Throws std::invalid_argument for a deadline that is not positive. `end` runs in another thread
  /// and should not return: end the process, and with it the job.
  Watchdog(std::chrono::duration<double> deadline, std::function<void(const std::string&)> end)
      : deadline_(deadline), end_(std::move(end)) {
    if (!(deadline.count() > 0.0))
      detail::throw_invalid("the deadline of a step must be positive",
                            "it is " + detail::text(deadline.count()) + " s",
                            "give several times what the slowest step takes, first one included");
    thread_ = std::thread([this] { watch(); });
  }
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;
  ~Watchdog() {
    {
      const std::lock_guard lock(mutex_);
      quits_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  /// Begins the step's time, and ends that of the step before.
  void begin_step(std::uint64_t step) {
    const std::lock_guard lock(mutex_);
    step_ = step;
    spent_ = {};
    runs_ = true;
  }

  /// Ends the step's time, where something follows that has no deadline.
  void pause() {
    const std::lock_guard lock(mutex_);
    runs_ = false;
  }

 private:
  using Clock = std::chrono::steady_clock;

  void watch() {
    constexpr std::chrono::duration<double> slice{0.05};
    std::unique_lock lock(mutex_);
    Clock::time_point last = Clock::now();
    while (!quits_) {
      changed_.wait_for(lock, slice);
      const Clock::time_point now = Clock::now();
      std::chrono::duration<double> passed = now - last;
      if (passed > 4 * slice) passed = slice;  // this process did not run
      last = now;
      if (!runs_ || quits_) continue;
      spent_ += passed;
      if (spent_ < deadline_) continue;
      runs_ = false;
      const std::string sentence =
          detail::sentence("a step must end within " + detail::text(deadline_.count()) + " s",
                           "step " + detail::text(step_) + " has not",
                           "look for a rank that was stopped or left a collective out; raise the "
                           "deadline where steps are that slow");
      lock.unlock();
      end_(sentence);
      lock.lock();
    }
  }

  std::chrono::duration<double> deadline_;
  std::function<void(const std::string&)> end_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::chrono::duration<double> spent_{};
  std::uint64_t step_ = 0;
  bool runs_ = false;
  bool quits_ = false;
  std::thread thread_;
};

DROPBP_NAMESPACE_END
