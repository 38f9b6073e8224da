// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Loops over threads: the only file of the library that knows OpenMP. Without it the loops are
// serial.
#pragma once

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "dropbp/kernels/index.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// Whether the calling thread is one of a parallel loop's.
inline bool in_parallel() noexcept {
#if defined(_OPENMP)
  return omp_in_parallel() != 0;
#else
  return false;
#endif
}

/// The threads a parallel loop started here would use: 1 inside another one.
inline Index thread_count() noexcept {
#if defined(_OPENMP)
  return in_parallel() ? 1 : static_cast<Index>(omp_get_max_threads());
#else
  return 1;
#endif
}

/// How many threads the loops started from here on use; 0 is one per processor. Results do not
/// depend on it.
inline void set_thread_count([[maybe_unused]] int threads) noexcept {
#if defined(_OPENMP)
  omp_set_num_threads(threads > 0 ? threads : omp_get_num_procs());
#endif
}

namespace detail {
// Loops with less work than this stay in the calling thread: waking the others takes some
// microseconds.
inline constexpr Index serial_work = 16384;
inline bool worth_threads(Index count, Index work) noexcept {
  return count > 1 && work >= (serial_work + count - 1) / count && thread_count() > 1;
}
}  // namespace detail

/// f(i) for 0 <= i < count, each thread a contiguous range: for many calls of equal cost. `work` is
/// roughly the number of elements that one call touches. f must not throw.
template <class F>
void parallel_for(Index count, [[maybe_unused]] Index work, const F& f) {
#if defined(_OPENMP)
  if (detail::worth_threads(count, work)) {
#pragma omp parallel for schedule(static)
    for (Index i = 0; i < count; ++i) f(i);
    return;
  }
#endif
  for (Index i = 0; i < count; ++i) f(i);
}

/// f(i) for 0 <= i < count, whichever thread is free takes the next: for few calls of unequal cost.
template <class F>
void parallel_tasks(Index count, [[maybe_unused]] Index work, const F& f) {
#if defined(_OPENMP)
  if (detail::worth_threads(count, work)) {
#pragma omp parallel for schedule(dynamic, 1)
    for (Index i = 0; i < count; ++i) f(i);
    return;
  }
#endif
  for (Index i = 0; i < count; ++i) f(i);
}

}  // namespace ops
DROPBP_NAMESPACE_END
