// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Sensitivities estimated from ordinary training steps. sensitivity/running.hpp takes the
// observations from a model's layers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "dropbp/base/error.hpp"

DROPBP_NAMESPACE_BEGIN

/// Estimates the published sensitivity of every branch without extra passes.
///
/// The estimate of a branch has two parts. The first is the squared norm of the branch's own
/// gradients, which vanish when the branch is dropped. The second is the branch's share in the
/// gradients of all lower branches. Without the branch, those gradients would shrink by the ratio
/// r: the norm of the residual stream's gradient above the branch divided by the norm below it. The
/// second part is therefore (1 - r)^2 times the squared norms of all lower branches.
///
/// Dropped branches above make a gradient smaller than it is in a complete pass, so an observation
/// is divided by the r^2 of each dropped branch above it. Norms and ratios are averaged
/// exponentially over the steps that kept the branch. The scale of a step depends on its batch and
/// on the progress of training, so the factor that all branches of a step share is divided out
/// first. Only ratios between branches are meaningful, and allocations use only ratios.
///
/// A branch without a recent observation counts as the most sensitive one, so that it is soon kept
/// again. The class is a value: copy it to keep it, or put state() into a checkpoint.
class RunningSensitivity {
 public:
  /// `decay`: weight of the past at each observation. Sensitivities change during training; longer
  /// averages did worse in benchmarks/sensitivity_cost. `explore_after`: steps without an
  /// observation after which an estimate is out of date; 0: never. Throws std::invalid_argument for
  /// a decay outside [0, 1).
  DROPBP_LAZY
  explicit RunningSensitivity(std::size_t branches, double decay = 0.7,
                              std::uint64_t explore_after = 100)
      : decay_(decay), explore_after_(explore_after), branches_(branches) {
    if (!detail::is_finite(decay) || decay < 0.0 || decay >= 1.0)
      detail::throw_invalid("the decay of a RunningSensitivity must be in [0, 1)",
                            "it is " + detail::text(decay),
                            "take 0.7 for an average over about three observations");
  }

  std::size_t size() const noexcept { return branches_.size(); }  ///< number of branches

  /// Records one observation of a kept branch: the squared norm of its own gradients in this step,
  /// and r = ||gradient above|| / ||gradient below|| of the residual stream (1 if unknown).
  /// end_step() adds it to the estimate. A second observation in the same step replaces the first.
  /// Throws std::invalid_argument for a branch that does not exist and for numbers that are
  /// negative or not finite; all observations of the step are then discarded.
  DROPBP_LAZY
  void observe(std::size_t branch, double squared_gradient_norm, double stream_ratio = 1.0) {
    const bool numbered = branch < size();
    const bool valid = detail::is_finite(squared_gradient_norm) && squared_gradient_norm >= 0.0 &&
                       detail::is_finite(stream_ratio) && stream_ratio >= 0.0;
    if (!numbered || !valid)
      for (Branch& one : branches_) one.now = {};
    if (!numbered)
      detail::throw_invalid("a branch is numbered below " + detail::text(size()),
                            "it is " + detail::text(branch),
                            "number the branches from 0 in the order of the forward pass");
    if (!valid)
      detail::throw_invalid(
          "a squared gradient norm and a ratio of norms must be finite and not negative",
          "those of branch " + detail::text(branch) + " are " +
              detail::text(squared_gradient_norm) + " and " + detail::text(stream_ratio),
          "leave out steps whose gradients overflowed");
    branches_[branch].now = {true, squared_gradient_norm, stream_ratio};
  }

  /// Adds the observations of this step to the estimates. Call it once per step. A branch without
  /// an observation counts as dropped. An estimate that would overflow becomes the largest double.
  DROPBP_LAZY
  void end_step() {
    undo_dropped_branches();
    const StepScale scale = scale_of_step();
    for (Branch& branch : branches_) {
      if (!branch.now.pending) continue;
      const double own =
          detail::rounded(scale.factor * detail::times_power_of_two(branch.now.own, -scale.seen));
      branch.own = faded(branch.own, detail::times_power_of_two(own, scale.expected));
      branch.weight = faded(branch.weight, 1.0);
      if (branch.now.ratio != 1.0) {
        branch.ratio = faded(branch.ratio, branch.now.ratio);
        branch.ratio_weight = faded(branch.ratio_weight, 1.0);
      }
      branch.last = step_;
      branch.now = {};
    }
    ++step_;
  }

  /// Whether the branch has an observation that is not out of date (see explore_after).
  DROPBP_LAZY
  bool is_known(std::size_t branch) const {
    const Branch& one = branches_.at(branch);
    return one.weight > 0.0 && (explore_after_ == 0 || step_ - one.last - 1 <= explore_after_);
  }

  /// One estimate per branch, for DropBPHandler::allocate. All are equal before the first
  /// observation.
  DROPBP_LAZY
  std::vector<double> sensitivities() const {
    std::vector<double> result(size());
    double largest = 0.0, below = 0.0;
    for (std::size_t i = 0; i < size(); ++i) {
      const Branch& branch = branches_[i];
      if (!(branch.weight > 0.0)) continue;
      const double own = branch.average();
      const double shrinks = detail::rounded(1.0 - branch.stream_ratio());
      result[i] = bounded(own + detail::rounded(detail::rounded(shrinks * shrinks) * below));
      below = bounded(below + own);
      if (result[i] > largest) largest = result[i];
    }
    for (std::size_t i = 0; i < size(); ++i)
      if (!is_known(i)) result[i] = largest > 0.0 ? largest : 1.0;
    return result;
  }

  /// Equal observations and parameters.
  bool operator==(const RunningSensitivity&) const = default;

  /// The observations without the parameters. Each list has one number per branch.
  struct State {
    std::vector<double> own;            ///< exponentially weighted sums of the squared norms
    std::vector<double> own_weights;    ///< the same sums of ones, which normalise `own`
    std::vector<double> ratios;         ///< exponentially weighted sums of r
    std::vector<double> ratio_weights;  ///< the same sums of ones, which normalise `ratios`
    std::vector<std::uint64_t> last;    ///< step of the last observation
    std::uint64_t step = 0;             ///< number of steps that have ended
    bool operator==(const State&) const = default;  ///< all fields are equal
  };

  /// The state for a checkpoint. Call it between steps: observations that wait for end_step() are
  /// not included.
  DROPBP_LAZY
  State state() const {
    State state;
    for (const Branch& branch : branches_) {
      state.own.push_back(branch.own);
      state.own_weights.push_back(branch.weight);
      state.ratios.push_back(branch.ratio);
      state.ratio_weights.push_back(branch.ratio_weight);
      state.last.push_back(branch.last);
    }
    state.step = step_;
    return state;
  }

  /// Continues from a saved state. Throws std::invalid_argument if the state has another number of
  /// branches or values that no observations produce; the estimates then stay unchanged.
  DROPBP_LAZY
  void restore(const State& state) {
    for (const std::size_t count : {state.own.size(), state.own_weights.size(), state.ratios.size(),
                                    state.ratio_weights.size(), state.last.size()})
      if (count != size())
        detail::throw_invalid("a state of a RunningSensitivity must be of as many branches (" +
                                  detail::text(size()) + ")",
                              "it has " + detail::text(count),
                              "restore it into one of the same model");
    std::vector<Branch> branches(size());
    for (std::size_t i = 0; i < size(); ++i) {
      Branch& branch = branches[i];
      branch.own = state.own[i], branch.weight = state.own_weights[i];
      branch.ratio = state.ratios[i], branch.ratio_weight = state.ratio_weights[i];
      branch.last = state.last[i];
      for (const double number : {branch.own, branch.weight, branch.ratio, branch.ratio_weight})
        if (!detail::is_finite(number) || number < 0.0)
          detail::throw_invalid(
              "sums and weights of a running sensitivity must be finite and not negative",
              "one of branch " + detail::text(i) + " is " + detail::text(number),
              "restore from an intact copy");
      if (branch.weight > 0.0 && branch.last >= state.step)
        detail::throw_invalid(
            "the last observation of a branch must be of a step before the next one (" +
                detail::text(state.step) + ")",
            "that of branch " + detail::text(i) + " is of step " + detail::text(branch.last),
            "restore from an intact copy");
    }
    branches_ = std::move(branches);
    step_ = state.step;
  }

 private:
  // observation * factor * 2^(expected - seen) is on the scale of the estimates.
  struct StepScale {
    double factor = 1.0;
    int seen = 0;      // exponent of the largest observation
    int expected = 0;  // exponent of the largest estimate
  };

  // Divides each observation by the squared stream ratios of the dropped branches above it, which
  // its gradient did not pass.
  DROPBP_LAZY
  void undo_dropped_branches() {
    double growth = 1.0;
    for (std::size_t i = size(); i-- > 0;) {
      Branch& branch = branches_[i];
      if (branch.now.pending) {
        const double grown = detail::rounded(branch.now.own * growth);
        if (detail::is_finite(grown)) branch.now.own = grown;
      } else if (const double r = branch.stream_ratio(); r > 0.0) {
        growth = detail::rounded(growth / detail::rounded(r * r));
      }
    }
  }

  // Compares the sum of this step's observations with the sum of their estimates. Both are scaled
  // by their largest terms, so that the sums and their quotient stay within the range of a double.
  DROPBP_LAZY
  StepScale scale_of_step() const {
    const auto is_compared = [](const Branch& branch) {
      return branch.now.pending && branch.weight > 0.0;
    };
    StepScale scale;
    bool first = true;
    for (const Branch& branch : branches_) {
      if (!is_compared(branch)) continue;
      const int seen = detail::exponent_of(branch.now.own);
      const int expected = detail::exponent_of(branch.average());
      if (first || seen > scale.seen) scale.seen = seen;
      if (first || expected > scale.expected) scale.expected = expected;
      first = false;
    }
    double seen = 0.0, expected = 0.0;
    for (std::size_t i = size(); i-- > 0;) {
      const Branch& branch = branches_[i];
      if (!is_compared(branch)) continue;
      seen = detail::rounded(seen + detail::times_power_of_two(branch.now.own, -scale.seen));
      expected =
          detail::rounded(expected + detail::times_power_of_two(branch.average(), -scale.expected));
    }
    if (!(seen > 0.0 && expected > 0.0)) return {};
    scale.factor = detail::rounded(expected / seen);
    return scale;
  }

  // An observation in the current step.
  struct Observation {
    bool pending = false;
    double own = 0.0, ratio = 1.0;
    bool operator==(const Observation&) const = default;
  };
  struct Branch {
    double own = 0.0, ratio = 0.0;  // exponentially weighted sums of the squared norms and of r
    // The same sums of ones: dividing by them removes the bias towards 0.
    double weight = 0.0, ratio_weight = 0.0;
    std::uint64_t last = 0;
    Observation now;
    double average() const noexcept { return detail::rounded(own / detail::rounded(weight)); }
    double stream_ratio() const noexcept {
      return ratio_weight > 0.0 ? detail::rounded(ratio / detail::rounded(ratio_weight)) : 1.0;
    }
    bool operator==(const Branch&) const = default;
  };

  static double bounded(double sum) noexcept {
    const double value = detail::rounded(sum);
    return detail::is_finite(value) ? value : detail::largest_double;
  }
  double faded(double sum, double newest) const noexcept {
    return bounded(detail::rounded(decay_ * sum) + newest);
  }

  double decay_;
  std::uint64_t explore_after_;
  std::uint64_t step_ = 0;
  std::vector<Branch> branches_;
};

DROPBP_NAMESPACE_END
