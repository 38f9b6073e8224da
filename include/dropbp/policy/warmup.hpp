// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The warm-up: rates grow in proportion to the step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "dropbp/base/error.hpp"

DROPBP_NAMESPACE_BEGIN
namespace detail {

// The factor on the rates in a step of the warm-up: 0 at step 0.
DROPBP_LAZY
inline double warmup_share(std::uint64_t step, std::uint64_t warmup_steps) {
  return rounded(static_cast<double>(step) / rounded(static_cast<double>(warmup_steps)));
}

// Turns the full rates into those of `step`, which is within the warm-up.
DROPBP_LAZY
inline void warm_up(std::span<double> rates, std::uint64_t step, std::uint64_t warmup_steps) {
  for (std::size_t i = 0; i < rates.size(); ++i)
    rates[i] = rounded(rates[i] * warmup_share(step, warmup_steps));
}

}  // namespace detail
DROPBP_NAMESPACE_END
