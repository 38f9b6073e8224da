// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Loops over threads.
#pragma once

#include <algorithm>
#include <atomic>

#include "dropbp/kernels/cpu/thread_team.hpp"
#include "dropbp/kernels/index.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

namespace detail {
inline std::atomic<int>& configured_threads() noexcept {
  static std::atomic<int> count{usable_processors()};
  return count;
}
}  // namespace detail

/// Whether the calling thread runs inside a parallel loop.
inline bool in_parallel() noexcept { return detail::ThreadTeam::inside(); }

/// Number of threads that a parallel loop started here would use; 1 inside a parallel loop.
inline Index thread_count() noexcept {
  return in_parallel() ? 1 : detail::configured_threads().load(std::memory_order_relaxed);
}

/// Sets the number of threads for all later loops of the process. 0: one per processor that the
/// process may use. Results do not depend on the number.
inline void set_thread_count(int threads) noexcept {
  detail::configured_threads().store(threads > 0 ? threads : detail::usable_processors(),
                                     std::memory_order_relaxed);
}

namespace detail {

// Loops with less work run in the calling thread: waking other threads takes some microseconds.
inline constexpr Index serial_work = 16384;
inline bool worth_threads(Index count, Index work) noexcept {
  return count > 1 && work >= (serial_work + count - 1) / count && thread_count() > 1;
}

// The range of iterations with which one thread begins. When the thread has finished its range, it
// takes iterations from others.
struct alignas(64) Share {
  std::atomic<Index> next{0};
  Index end = 0;
};
inline constexpr Index most_shares = 64;
// A thread takes iterations in groups that touch about this many elements, or an eighth of its
// share.
inline constexpr Index least_work = 4096;

// Calls f(i) for 0 <= i < count from several threads. A thread takes `step` iterations at a time,
// first from its own share.
template <class F>
void share_out(Index count, Index shares, Index step, const F& f) noexcept {
  Share part[most_shares];
  for (Index s = 0; s < shares; ++s) {
    part[s].next.store(s * count / shares, std::memory_order_relaxed);
    part[s].end = (s + 1) * count / shares;
  }
  ThreadTeam::instance().run(static_cast<int>((std::min)(thread_count(), count)), [&](int thread) {
    for (Index k = 0; k < shares; ++k) {
      Share& taken = part[(thread + k) % shares];
      for (;;) {
        const Index first = taken.next.fetch_add(step, std::memory_order_relaxed);
        if (first >= taken.end) break;
        const Index last = (std::min)(first + step, taken.end);
        for (Index i = first; i < last; ++i) f(i);
      }
    }
  });
}

}  // namespace detail

/// Calls f(i) for 0 <= i < count; for many calls of equal cost. Each thread begins with a
/// contiguous range. `work` is the approximate number of elements that one call touches. f must not
/// throw.
template <class F>
void parallel_for(Index count, Index work, const F& f) {
  if (detail::worth_threads(count, work)) {
    const Index shares = (std::min)({thread_count(), count, detail::most_shares});
    const Index share = count / shares;
    const Index step = (std::min)(share, detail::least_work / (work + 1) + 1);
    detail::share_out(count, shares, (std::max)(share / 8, step), f);
  } else {
    for (Index i = 0; i < count; ++i) f(i);
  }
}

/// Calls f(i) for 0 <= i < count, handed out one by one in order; for few calls of unequal cost.
/// `work` as in parallel_for. f must not throw.
template <class F>
void parallel_tasks(Index count, Index work, const F& f) {
  if (detail::worth_threads(count, work))
    detail::share_out(count, 1, 1, f);
  else
    for (Index i = 0; i < count; ++i) f(i);
}

}  // namespace ops
DROPBP_NAMESPACE_END
