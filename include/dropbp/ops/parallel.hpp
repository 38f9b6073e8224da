// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Loops over threads: the only file of the library that knows OpenMP. Without it the loops are serial.
#pragma once

#include <cstddef>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "dropbp/base/config.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// Sizes and positions. Signed, so that differences need no care.
using Index = std::ptrdiff_t;

/// The threads a parallel loop started here would use: 1 inside another one.
inline Index thread_count() noexcept {
#if defined(_OPENMP)
  return omp_in_parallel() ? 1 : static_cast<Index>(omp_get_max_threads());
#else
  return 1;
#endif
}

/// f(i) for 0 <= i < count, each thread a contiguous range: for many calls of equal cost. f must not throw.
template <class F>
void parallel_for(Index count, const F& f) {
#if defined(_OPENMP)
  if (count > 1 && thread_count() > 1) {
#pragma omp parallel for schedule(static)
    for (Index i = 0; i < count; ++i) f(i);
    return;
  }
#endif
  for (Index i = 0; i < count; ++i) f(i);
}

/// f(i) for 0 <= i < count, whichever thread is free takes the next: for few calls of unequal cost. f must not throw.
template <class F>
void parallel_tasks(Index count, const F& f) {
#if defined(_OPENMP)
  if (count > 1 && thread_count() > 1) {
#pragma omp parallel for schedule(dynamic, 1)
    for (Index i = 0; i < count; ++i) f(i);
    return;
  }
#endif
  for (Index i = 0; i < count; ++i) f(i);
}

}  // namespace ops
DROPBP_NAMESPACE_END
