// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The host's clock, for DropBPHandler::measure_costs. Not in dropbp.hpp, because <chrono> takes
// longer to compile than the library.
#pragma once

#include <chrono>

#include "dropbp/base/config.hpp"

DROPBP_NAMESPACE_BEGIN

/// Seconds on a clock that never goes back.
struct SteadyClock {
  /// The current time; the origin is arbitrary.
  double operator()() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
};

DROPBP_NAMESPACE_END
