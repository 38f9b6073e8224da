// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Allocation policies: they distribute a cost budget over the branches as drop rates.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "dropbp/base/error.hpp"

DROPBP_NAMESPACE_BEGIN

/// The input of an allocation policy.
struct AllocationInput {
  std::span<const double> sensitivities;  ///< of each branch, not negative
  std::span<const double> costs;          ///< of each branch, in any common unit
  double drop_rate = 0.0;                 ///< target rate P
  double kept_cost = 0.0;  ///< budget of the expected kept cost: (1 - P) * sum of costs
};

namespace detail {
template <class A>
concept has_allocate = requires(const A& policy, const AllocationInput& input) {
  { policy.allocate(input) } -> std::same_as<std::vector<double>>;
};
DROPBP_LAZY
inline bool needs_sensitivities(const auto& policy) {
  if constexpr (requires { policy.needs_sensitivities(); }) return policy.needs_sensitivities();
  return true;
}
}  // namespace detail

/// An allocation policy has `std::vector<double> allocate(const AllocationInput&) const`. It
/// returns one rate in [0, 1] per branch, or throws std::invalid_argument if its rates cannot stay
/// within the budget. Optional: `bool needs_sensitivities() const`. Where it returns false, a
/// handler allocates when it is made, and DropBPHandler::allocate() needs no argument.
template <class A>
concept Allocation = std::copyable<A> && detail::has_allocate<A>;

/// The same rate for every branch; ignores the sensitivities.
struct UniformAllocation {
  static constexpr bool needs_sensitivities() noexcept { return false; }  ///< see Allocation

  /// See Allocation.
  DROPBP_LAZY
  std::vector<double> allocate(const AllocationInput& input) const {
    return std::vector<double>(input.costs.size(), input.drop_rate);
  }
};

/// The published allocation, bit for bit. It raises rates in steps of 0.1, up to 0.9, until they
/// stay within the budget. Each step raises the rate of the branch with the smallest sensitivity *
/// (rate + 0.1). Rates are float32 values. Source: WooSunghyeon/dropbp, allocate_p.cc; this code
/// repeats its arithmetic (float32 keys, double products). Where that arithmetic would leave the
/// range of float32, costs and sensitivities are first multiplied by powers of two, so any unit may
/// be used. A sensitivity below 2^-248 of the largest counts as 0.
struct GreedyAllocation {
  double min_rate = 0.0;  ///< lower bound of all rates

  /// See Allocation. Throws std::invalid_argument for a target that needs rates above 0.9.
  DROPBP_LAZY
  std::vector<double> allocate(const AllocationInput& input) const {
    detail::require_rate(min_rate, "min_rate");
    const float start = static_cast<float>(min_rate);
    const int cost_shift = shift_of(input.costs), key_shift = shift_of(input.sensitivities);
    const auto cost = [&](std::size_t i) { return narrowed(input.costs[i], cost_shift); };
    const double least = detail::rounded(step + min_rate);
    const auto sensitivity = [&](std::size_t i) {
      const double value = narrowed(input.sensitivities[i], key_shift);
      return detail::rounded(value * least) < 0x1p-126 ? 0.0 : value;  // subnormal keys count as 0
    };
    const double kept_cost = detail::times_power_of_two(input.kept_cost, cost_shift);
    std::vector<float> rates(input.costs.size(), start);
    std::vector<Candidate> heap;
    heap.reserve(rates.size());
    double remaining = 0.0;
    for (std::size_t i = 0; i < rates.size(); ++i) {
      remaining = detail::rounded(remaining + cost(i));
      const double key = sensitivity(i) * least;
      if (min_rate < highest)
        push(heap, {static_cast<float>(detail::rounded(key)), static_cast<std::uint32_t>(i)});
    }
    const double total = remaining;
    remaining = detail::rounded(remaining * detail::rounded(1.0 - min_rate));
    while (remaining > kept_cost) {
      if (heap.empty()) {
        // All rates are at their maximum. At exactly the largest feasible target, `remaining` may
        // exceed the budget by the rounding error of nine subtractions.
        if (remaining <= kept_cost + 1e-6 * total) break;
        detail::throw_invalid(
            "GreedyAllocation drops no branch more often than about 0.9, so the largest feasible "
            "target rate here is " +
                detail::text(1.0 - remaining / total),
            "the target rate is " + detail::text(input.drop_rate),
            "lower the target or use another allocation policy");
      }
      Candidate candidate = pop(heap);
      float& rate = rates[candidate.branch];
      rate = static_cast<float>(detail::rounded(static_cast<double>(rate) + step));
      remaining = detail::rounded(remaining - detail::rounded(step * cost(candidate.branch)));
      if (static_cast<double>(rate) < highest) {
        const double growth = detail::rounded(sensitivity(candidate.branch) * step);
        candidate.key =
            static_cast<float>(detail::rounded(static_cast<double>(candidate.key) + growth));
        push(heap, candidate);
      }
    }
    return {rates.begin(), rates.end()};
  }

  bool operator==(const GreedyAllocation&) const = default;  ///< equal parameters

 private:
  static constexpr double step = 0.1;
  static constexpr double highest = 0.9;

  // The exponent of the power of two that scales `values`. It scales up as far as float32 allows,
  // which keeps the bits of numbers that the published arithmetic could represent. It scales down
  // only if the largest value exceeds float32.
  DROPBP_LAZY
  static int shift_of(std::span<const double> values) {
    const int shift = 126 - detail::largest_exponent(values);
    bool beyond = false;
    for (const double value : values) beyond = beyond || value > 0x1.fffffep127;
    return shift > 0 || beyond ? shift : 0;
  }

  DROPBP_LAZY
  static double narrowed(double value, int shift) {
    return static_cast<double>(static_cast<float>(detail::times_power_of_two(value, shift)));
  }

  struct Candidate {
    float key;
    std::uint32_t branch;
    bool before(const Candidate& other) const {
      return key < other.key ||
             (key == other.key && branch > other.branch);  // ties: the larger index first
    }
  };

  // A binary heap with the first candidate on top. <algorithm> would take longer to compile.
  DROPBP_LAZY
  static void push(std::vector<Candidate>& heap, Candidate candidate) {
    std::size_t hole = heap.size();
    heap.push_back(candidate);
    while (hole > 0 && candidate.before(heap[(hole - 1) / 2])) {
      heap[hole] = heap[(hole - 1) / 2];
      hole = (hole - 1) / 2;
    }
    heap[hole] = candidate;
  }

  DROPBP_LAZY
  static Candidate pop(std::vector<Candidate>& heap) {
    const Candidate top = heap.front();
    const Candidate last = heap.back();
    heap.pop_back();
    if (heap.empty()) return top;
    std::size_t hole = 0;
    for (std::size_t child = 1; child < heap.size(); child = 2 * hole + 1) {
      if (child + 1 < heap.size() && heap[child + 1].before(heap[child])) ++child;
      if (!heap[child].before(last)) break;
      heap[hole] = heap[child];
      hole = child;
    }
    heap[hole] = last;
    return top;
  }
};

DROPBP_NAMESPACE_END
