// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Sampling policies: they draw a plan from the drop rates.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "dropbp/base/error.hpp"
#include "dropbp/base/member.hpp"
#include "dropbp/base/philox.hpp"

DROPBP_NAMESPACE_BEGIN

/// The input of a sampling policy when the rates change.
struct SamplingInput {
  std::span<const double> rates;  ///< of each branch, in [0, 1]
  std::span<const double> costs;  ///< of each branch, in any common unit
  double drop_rate = 0.0;         ///< the target that the rates were allocated for
  /// Group of each branch, numbered from 0; empty: one group of all branches.
  std::span<const std::uint32_t> groups = {};
};

namespace detail {

// A schedule holds a Prepared and is copied.
template <class S>
concept has_prepared = std::semiregular<typename S::Prepared>;

template <class S>
concept has_prepare = requires(const S& policy, const SamplingInput& input) {
  { policy.prepare(input) } -> std::same_as<typename S::Prepared>;
};

template <class S>
concept has_draw =
    requires(const S& policy, const typename S::Prepared& prepared, const CounterRandom& random,
             std::span<std::uint8_t> dropped) { policy.draw(prepared, random, dropped); };

template <class S>
concept has_draw_with_work =
    requires(const S& policy, const typename S::Prepared& prepared, const CounterRandom& random,
             std::span<std::uint8_t> dropped,
             std::span<std::uint32_t> work) { policy.draw(prepared, random, dropped, work); };

// The optional members, for the concepts of base/member.hpp.
struct MaxKept {
  template <class S, class Prepared>
  auto operator()(S& policy, const Prepared& prepared) const
      -> decltype(policy.max_kept(prepared, std::uint32_t{}));
};
struct MaxKeptWeight {
  template <class S, class Prepared>
  auto operator()(S& policy, const Prepared& prepared) const
      -> decltype(policy.max_kept_weight(prepared));
};
struct Limit {
  template <class S, class Rates>
  auto operator()(S& policy, Rates& rates, const SamplingInput& input) const
      -> decltype(policy.limit(rates, input));
};

template <class S>
concept has_max_kept = answers<std::size_t, MaxKept, S, typename S::Prepared>;

template <class S>
concept has_max_kept_weight = answers<double, MaxKeptWeight, S, typename S::Prepared>;

template <class S>
concept has_limit = can_call<Limit, const S, std::span<double>&, SamplingInput>;

// An optional member must have the documented signature; otherwise it would silently be ignored.
template <class S>
constexpr bool require_optional_members() {
  static_assert(!can_call<MaxKept, S, typename S::Prepared> || has_max_kept<S>,
                "dropbp: the sampling policy's max_kept would never be called: it must be "
                "std::size_t max_kept(const Prepared&, std::uint32_t group) const.");
  static_assert(!can_call<MaxKeptWeight, S, typename S::Prepared> || has_max_kept_weight<S>,
                "dropbp: the sampling policy's max_kept_weight would never be called: it must be "
                "double max_kept_weight(const Prepared&) const.");
  static_assert(!can_call<Limit, S, std::vector<double>&, SamplingInput> || has_limit<S>,
                "dropbp: the sampling policy's limit would never be called: it must be void "
                "limit(std::span<double> rates, const SamplingInput&) const.");
  return true;
}

// Indices in descending order of the values; equal values keep their order. A bottom-up merge sort,
// because <algorithm> would take longer to compile.
DROPBP_LAZY
inline std::vector<std::uint32_t> descending(std::span<const double> values) {
  std::vector<std::uint32_t> order(values.size()), merged(values.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::uint32_t>(i);
  for (std::size_t width = 1; width < order.size(); width *= 2) {
    for (std::size_t start = 0; start < order.size(); start += 2 * width) {
      const std::size_t middle = start + width < order.size() ? start + width : order.size();
      const std::size_t end = middle + width < order.size() ? middle + width : order.size();
      std::size_t left = start, right = middle;
      for (std::size_t out = start; out < end; ++out) {
        const bool take_right =
            left == middle || (right < end && values[order[right]] > values[order[left]]);
        merged[out] = take_right ? order[right++] : order[left++];
      }
    }
    order.swap(merged);
  }
  return order;
}

}  // namespace detail

/// A sampling policy:
///
/// - `struct Prepared`:
///   a copyable type with a default constructor
/// - `Prepared prepare(const SamplingInput&) const`:
///   called when the rates change: in the warm-up, for every plan
/// - `void draw(const Prepared&, const CounterRandom&, std::span<std::uint8_t> dropped) const`:
///   sets dropped[i] to 1 or 0 for each branch; a pure function that allocates no memory
///
/// draw may take std::span<std::uint32_t> work as a fourth argument: working space, one word per
/// branch. A policy that bounds the kept branches may also have
///
/// - `std::size_t max_kept(const Prepared&, std::uint32_t group) const`:
///   the most branches of a group that a draw keeps
/// - `double max_kept_weight(const Prepared&) const`:
///   the largest total weight that a draw keeps, over all groups
/// - `void limit(std::span<double> rates, const SamplingInput&) const`:
///   raises the rates until a cap on the kept weight holds
template <class S>
concept Sampling = std::copyable<S> && detail::has_prepared<S> && detail::has_prepare<S> &&
                   (detail::has_draw<S> || detail::has_draw_with_work<S>);

/// Drops every branch independently at its own rate. The rates are exact; cost and memory vary from
/// step to step.
struct BernoulliSampling {
  /// Rates as 53-bit integers, so that comparisons give the same result on every compiler and with
  /// -ffast-math. Rate 0 never drops, rate 1 always drops.
  struct Prepared {
    std::vector<std::uint64_t> thresholds;  ///< rate * 2^53 of each branch
  };

  /// See Sampling.
  DROPBP_LAZY
  Prepared prepare(const SamplingInput& input) const {
    Prepared prepared;
    prepared.thresholds.reserve(input.rates.size());
    for (const double rate : input.rates)
      prepared.thresholds.push_back(static_cast<std::uint64_t>(rate * 0x1p53));
    return prepared;
  }

  /// See Sampling.
  DROPBP_LAZY
  void draw(const Prepared& prepared, const CounterRandom& random,
            std::span<std::uint8_t> dropped) const {
    for (std::size_t i = 0; i < dropped.size(); i += 2) {
      const auto bits = random.pair(static_cast<std::uint32_t>(i / 2));
      dropped[i] = (bits[0] >> 11) < prepared.thresholds[i];
      if (i + 1 < dropped.size()) dropped[i + 1] = (bits[1] >> 11) < prepared.thresholds[i + 1];
    }
  }
};

/// The published sampler. It draws independently, then drops further branches, highest rate first
/// (ties: lowest index), until at least drop_rate * N branches are dropped. This bounds the number
/// of kept branches, but drops more than the target: 0.525 on average for 64 branches at 0.5.
struct AtLeastTargetSampling {
  /// What draw() needs, computed from the rates.
  struct Prepared {
    BernoulliSampling::Prepared independent;        ///< the independent draws
    std::vector<std::uint32_t> highest_rate_first;  ///< branches
    std::size_t least_dropped = 0;                  ///< fewest branches that a draw drops
  };

  /// See Sampling.
  DROPBP_LAZY
  Prepared prepare(const SamplingInput& input) const {
    Prepared prepared;
    prepared.independent = BernoulliSampling{}.prepare(input);
    prepared.highest_rate_first = detail::descending(input.rates);
    prepared.least_dropped = least_dropped(input.rates.size(), input.drop_rate);
    return prepared;
  }

  /// See Sampling.
  DROPBP_LAZY
  void draw(const Prepared& prepared, const CounterRandom& random,
            std::span<std::uint8_t> dropped) const {
    BernoulliSampling{}.draw(prepared.independent, random, dropped);
    std::size_t count = 0;
    for (const std::uint8_t one : dropped) count += one;
    for (std::size_t i = 0; count < prepared.least_dropped; ++i) {
      std::uint8_t& candidate = dropped[prepared.highest_rate_first[i]];
      if (candidate == 0) candidate = 1, ++count;
    }
  }

 private:
  // The smallest count with count / branches >= rate in double precision. The divisor is rounded
  // too; otherwise -ffast-math would multiply by 1 / branches.
  DROPBP_LAZY
  static std::size_t least_dropped(std::size_t branches, double rate) {
    for (std::size_t count = 0; count < branches; ++count)
      if (detail::rounded(static_cast<double>(count) /
                          detail::rounded(static_cast<double>(branches))) >= rate)
        return count;
    return branches;
  }
};

DROPBP_NAMESPACE_END
