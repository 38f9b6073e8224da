// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Calls the optional members of a sampling policy, or does what replaces a missing one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "dropbp/base/error.hpp"
#include "dropbp/policy/sampling.hpp"

DROPBP_NAMESPACE_BEGIN
namespace detail {

DROPBP_LAZY
inline void require_rates(std::span<const double> rates) {
  for (std::size_t i = 0; i < rates.size(); ++i)
    require_rate(rates[i], "the drop rate of branch " + text(i));
}

// `work` is not used by most policies.
template <class S>
void draw_with(const S& policy, const typename S::Prepared& prepared, const CounterRandom& random,
               std::span<std::uint8_t> dropped, std::span<std::uint32_t> work) {
  if constexpr (has_draw_with_work<S>)
    policy.draw(prepared, random, dropped, work);
  else
    policy.draw(prepared, random, dropped);
}

// Never above `members`, the branches of the group whose rate is below 1.
template <class S>
std::size_t max_kept_of(const S& policy, const typename S::Prepared& prepared, std::uint32_t group,
                        std::size_t members) {
  if constexpr (has_max_kept<S>) {
    const std::size_t most = policy.max_kept(prepared, group);
    return most < members ? most : members;
  } else {
    return members;
  }
}

// Raises the rates until the policy's cap on the kept weight holds. Turns -0 into 0, so that equal
// rates have equal bits and their plans equal fingerprints.
template <class S>
void limit_rates(const S& policy, std::span<double> rates, const SamplingInput& input) {
  if constexpr (has_limit<S>) {
    policy.limit(rates, input);
    require_rates(rates);
  }
  for (double& rate : rates) rate = magnitude(rate);
}

}  // namespace detail
DROPBP_NAMESPACE_END
