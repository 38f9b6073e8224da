// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Sensitivities from ordinary training steps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "dropbp/base/error.hpp"

DROPBP_NAMESPACE_BEGIN

/// Estimates the published sensitivity of every branch without extra passes: the squared norm of the branch's own
/// gradients, which vanish when it is dropped and make up most of it, averaged exponentially over the steps that kept it. What the
/// branch sends down to others is left out. A branch that was not seen lately, or never, counts as the most sensitive one,
/// so that it is kept again soon.
/// A value: copy it to keep it, take its state() for a checkpoint. Throws std::invalid_argument for a decay outside [0, 1).
class RunningSensitivity {
 public:
  /// `decay`: weight of the past at each observation. `explore_after`: steps without an observation after which an
  /// estimate is out of date; 0 for never.
  DROPBP_LAZY
  explicit RunningSensitivity(std::size_t branches, double decay = 0.9, std::uint64_t explore_after = 100)
      : decay_(decay), explore_after_(explore_after), branches_(branches) {
    if (!(decay >= 0.0 && decay < 1.0))
      detail::throw_invalid("the decay of a RunningSensitivity must be in [0, 1)", "it is " + detail::text(decay),
                            "take 0.9 for an average over about ten observations");
  }

  std::size_t size() const noexcept { return branches_.size(); }  ///< number of branches

  /// The squared norm of a kept branch's own gradients in this step. Throws std::invalid_argument, with the estimate as it
  /// was, for a number that is not finite.
  DROPBP_LAZY
  void observe(std::size_t branch, double squared_gradient_norm) {
    if (branch >= size())
      detail::throw_invalid("a branch is numbered below " + detail::text(size()), "it is " + detail::text(branch),
                            "number the branches from 0 in the order of the forward pass");
    if (!detail::is_finite(squared_gradient_norm) || squared_gradient_norm < 0.0)
      detail::throw_invalid("a squared gradient norm must be finite and not negative",
                            "that of branch " + detail::text(branch) + " is " + detail::text(squared_gradient_norm),
                            "leave out steps whose gradients overflowed");
    Branch& seen = branches_[branch];
    seen.sum = decay_ * seen.sum + squared_gradient_norm;
    seen.weight = decay_ * seen.weight + 1.0;
    seen.last = step_;
  }

  /// To be called after each step's observations.
  void end_step() noexcept { ++step_; }

  /// Whether the branch's estimate is a recent one.
  DROPBP_LAZY
  bool is_known(std::size_t branch) const {
    const Branch& one = branches_.at(branch);
    return one.weight > 0.0 && (explore_after_ == 0 || step_ - one.last <= explore_after_);
  }

  /// One estimate a branch, for DropBPHandler::allocate. All equal before the first observation.
  DROPBP_LAZY
  std::vector<double> sensitivities() const {
    std::vector<double> result(size());
    double largest = 0.0;
    for (std::size_t i = 0; i < size(); ++i) {
      const Branch& branch = branches_[i];
      if (branch.weight > 0.0) result[i] = branch.sum / branch.weight;
      if (result[i] > largest) largest = result[i];
    }
    for (std::size_t i = 0; i < size(); ++i)
      if (!is_known(i)) result[i] = largest > 0.0 ? largest : 1.0;
    return result;
  }

  bool operator==(const RunningSensitivity&) const = default;  ///< the same observations and parameters

  /// What was observed, without the parameters; one number a branch in each list.
  struct State {
    std::vector<double> sums;                       ///< of the observations, the older the less
    std::vector<double> weights;                    ///< what each sum has of ones
    std::vector<std::uint64_t> last;                ///< step of the last observation
    std::uint64_t step = 0;                         ///< steps that have ended
    bool operator==(const State&) const = default;  ///< of all fields
  };

  /// All that a resumed training needs of it.
  DROPBP_LAZY
  State state() const {
    State state;
    for (const Branch& branch : branches_) {
      state.sums.push_back(branch.sum);
      state.weights.push_back(branch.weight);
      state.last.push_back(branch.last);
    }
    state.step = step_;
    return state;
  }

  /// Goes on from a saved state. Throws std::invalid_argument, with the estimate as it was, for a state of another number of
  /// branches or one that no observations can lead to.
  DROPBP_LAZY
  void restore(const State& state) {
    for (const std::size_t count : {state.sums.size(), state.weights.size(), state.last.size()})
      if (count != size())
        detail::throw_invalid("a state of a RunningSensitivity must be of as many branches (" + detail::text(size()) + ")",
                              "it has " + detail::text(count), "restore it into one of the same model");
    std::vector<Branch> branches(size());
    for (std::size_t i = 0; i < size(); ++i) {
      branches[i] = {state.sums[i], state.weights[i], state.last[i]};
      const bool possible = detail::is_finite(state.sums[i]) && state.sums[i] >= 0.0 && detail::is_finite(state.weights[i]) &&
                            state.weights[i] >= 0.0 && state.last[i] <= state.step;
      if (!possible)
        detail::throw_invalid("sums and weights of a running sensitivity must be finite and not negative, and seen by its step",
                              "those of branch " + detail::text(i) + " are " + detail::text(state.sums[i]) + " and " +
                                  detail::text(state.weights[i]) + ", seen in step " + detail::text(state.last[i]) + " of " +
                                  detail::text(state.step),
                              "restore from an intact copy");
    }
    branches_ = std::move(branches);
    step_ = state.step;
  }

 private:
  struct Branch {
    double sum = 0.0;     // of the observations, the older the less
    double weight = 0.0;  // what that sum has of ones: dividing by it corrects the bias of the start
    std::uint64_t last = 0;
    bool operator==(const Branch&) const = default;
  };

  double decay_;
  std::uint64_t explore_after_;
  std::uint64_t step_ = 0;
  std::vector<Branch> branches_;
};

DROPBP_NAMESPACE_END
