// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The pivotal method, by which samplers draw a bounded number of branches. The source is named at
// FixedBudgetSampling.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "dropbp/base/error.hpp"
#include "dropbp/base/philox.hpp"

DROPBP_NAMESPACE_BEGIN
namespace detail {

// A smaller fraction of a branch is a rounding error.
inline constexpr double branch_rounding = 1e-9;

// A branch whose keep probability is neither 0 nor 1.
struct UndecidedBranch {
  std::uint32_t number;  // index in the order of the forward pass
  std::uint32_t group;   // see DropOptions::groups
  double keep;           // keep probability
  double weight;         // > 0, scaled by a power of two
};

// The branch of a group that is still undecided; none if `open` is false.
struct Pivot {
  std::uint32_t number = 0;
  bool open = false;
  double keep = 0.0, weight = 0.0;

  DROPBP_LAZY
  void decide(bool kept, std::span<std::uint8_t> dropped) {
    dropped[number] = kept ? 0 : 1;
    open = false;
  }

  DROPBP_LAZY
  void settle(std::span<std::uint8_t> dropped) {
    if (open && (keep < branch_rounding || keep > 1.0 - branch_rounding))
      decide(keep > 0.5, dropped);
  }

  // Moves keep probability between this branch and `other`, until one of them is decided. The
  // odds of the direction leave both keep probabilities unchanged in expectation. Afterwards this
  // object is the branch that stays undecided.
  DROPBP_LAZY
  void meet(Pivot other, double random, std::span<std::uint8_t> dropped) {
    if (!other.open) return;
    if (!open) {
      *this = other;
      return;
    }
    const double held = detail::rounded(keep * weight),
                 lacked = detail::rounded(detail::rounded(1.0 - keep) * weight);
    const double others_held = detail::rounded(other.keep * other.weight);
    const double others_lacked = detail::rounded(detail::rounded(1.0 - other.keep) * other.weight);
    const double gain = lacked < others_held ? lacked : others_held;
    const double loss = held < others_lacked ? held : others_lacked;
    const bool gains = detail::rounded(random * detail::rounded(gain + loss)) < loss;
    Pivot& winner = gains ? *this : other;
    Pivot& loser = gains ? other : *this;
    const double moved = gains ? gain : loss;
    const bool winner_is_decided = gains ? lacked <= others_held : others_lacked <= held;
    if (winner_is_decided) {
      winner.decide(true, dropped);
      loser.keep =
          detail::rounded(loser.keep - detail::rounded(moved / detail::rounded(loser.weight)));
      if (loser.keep <= 0.0) loser.decide(false, dropped);
    } else {
      loser.decide(false, dropped);
      winner.keep =
          detail::rounded(winner.keep + detail::rounded(moved / detail::rounded(winner.weight)));
      if (winner.keep >= 1.0) winner.decide(true, dropped);
    }
    if (!open) *this = other;
  }
};

inline double unit_of_bits(std::uint64_t bits) { return static_cast<double>(bits >> 11) * 0x1p-53; }

// The first number of a pair, in [0, 1).
inline double unit_random(const CounterRandom& random, std::size_t pair) {
  return unit_of_bits(random.pair(static_cast<std::uint32_t>(pair))[0]);
}

// The end of the group that begins at `begin`; `undecided` is sorted by group.
DROPBP_LAZY
inline std::size_t end_of_group(std::span<const UndecidedBranch> undecided, std::size_t begin) {
  std::size_t end = begin;
  while (end < undecided.size() && undecided[end].group == undecided[begin].group) ++end;
  return end;
}

// Lets the branches of the group [begin, end) meet in a random order, and returns the one that is
// left undecided, if any. It takes the pairs 2 * begin, 2 * begin + 2, ... of `random`. `order` is
// working space, one word per branch.
DROPBP_LAZY
inline Pivot pivot_of_group(std::span<const UndecidedBranch> undecided, std::size_t begin,
                            std::size_t end, const CounterRandom& random,
                            std::span<std::uint8_t> dropped, std::span<std::uint32_t> order) {
  for (std::size_t i = begin; i < end; ++i) order[i] = static_cast<std::uint32_t>(i);
  Pivot pivot;
  for (std::size_t i = begin; i < end; ++i) {
    const auto bits = random.pair(static_cast<std::uint32_t>(2 * i));
    const std::size_t chosen = i + static_cast<std::size_t>(((bits[0] >> 32) * (end - i)) >> 32);
    const std::uint32_t next = order[chosen];
    order[chosen] = order[i];
    const UndecidedBranch& branch = undecided[next];
    pivot.meet({branch.number, true, branch.keep, branch.weight}, unit_of_bits(bits[1]), dropped);
  }
  pivot.settle(dropped);
  return pivot;
}

}  // namespace detail
DROPBP_NAMESPACE_END
