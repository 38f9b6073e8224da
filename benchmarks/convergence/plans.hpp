// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// How the methods that `convergence` compares choose what a step drops.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include <dropbp/dropbp.hpp>

namespace bench {

/// Updates estimates from the gradients of a step.
using Observe = std::function<void(dropbp::RunningSensitivity&)>;

/// What a source of plans knows of its run. Branches 2 k and 2 k + 1 are attention and MLP of block
/// k.
struct Setup {
  std::vector<double> costs;  ///< of each branch
  std::uint64_t steps = 0, seed = 0;
  double drop_rate = 0.0;
  bool trainable_below = true;

  std::size_t branches() const noexcept { return costs.size(); }
  std::size_t blocks() const noexcept { return costs.size() / 2; }
  /// Blocks that a rule for whole blocks keeps.
  std::size_t kept_blocks() const noexcept {
    const double kept = (1.0 - drop_rate) * static_cast<double>(blocks());
    return std::max<std::size_t>(1, static_cast<std::size_t>(std::lround(kept)));
  }
  std::uint64_t share_of_steps(double share) const noexcept {
    return static_cast<std::uint64_t>(std::lround(share * static_cast<double>(steps)));
  }
};

/// Chooses the plan of every micro-step.
class PlanSource {
 public:
  explicit PlanSource(Setup setup) : setup_(std::move(setup)) {}
  virtual ~PlanSource() = default;
  PlanSource(const PlanSource&) = delete;
  PlanSource& operator=(const PlanSource&) = delete;

  virtual dropbp::DropPlan plan(std::uint64_t step, std::uint32_t micro_step) = 0;
  /// Called after the backward passes of each step with the squared gradient norm of each branch.
  virtual void observe(std::span<const double>, const Observe&) {}
  /// Whether sensitivities are to be measured before this step.
  virtual bool measures_at(std::uint64_t) const { return false; }
  virtual void measured(std::span<const double>) {}

 protected:
  const Setup& setup() const noexcept { return setup_; }

  dropbp::DropPlan plan_keeping(std::uint64_t step, std::uint32_t micro_step,
                                std::span<const std::size_t> blocks) const {
    std::vector<std::uint8_t> dropped(setup_.branches(), 1);
    for (const std::size_t block : blocks) dropped[2 * block] = dropped[2 * block + 1] = 0;
    return dropbp::DropPlan(dropped, setup_.trainable_below, step, micro_step);
  }

 private:
  Setup setup_;
};

/// Nothing is dropped.
class Complete final : public PlanSource {
 public:
  using PlanSource::PlanSource;
  dropbp::DropPlan plan(std::uint64_t step, std::uint32_t micro_step) override {
    const std::vector<std::uint8_t> none(setup().branches(), 0);
    return dropbp::DropPlan(none, setup().trainable_below, step, micro_step);
  }
};

/// When rates are allocated, and from what.
struct RateOptions {
  std::function<std::vector<double>(const dropbp::AllocationInput&)> allocate;  ///< empty: uniform
  double first = 0.1;           ///< share of the steps before the first allocation
  double period = 0.1;          ///< share of the steps between allocations; 0: once
  bool complete_steps = false;  ///< nothing is dropped before the first allocation, nor in the step
                                ///< before each further one
  bool measured = false;    ///< from a measurement on one sample, otherwise from running estimates
  bool stratified = false;  ///< plans are stratified over the micro-steps of a step
  double end = 0.0;         ///< share of the steps, at the end, in which nothing is dropped
  /// Multiplies the drop rate at a share of the run; empty: 1. Its mean is 1.
  std::function<double(double)> shape = {};
};

/// Drops each branch in its share of the step's micro-steps, evenly spread and from a random place.
inline dropbp::DropPlan stratified_plan(const Setup& setup, std::span<const double> rates,
                                        std::uint64_t step, std::uint32_t micro_step) {
  const dropbp::CounterRandom random(setup.seed, dropbp::RandomStream::user, step);
  std::vector<std::uint8_t> dropped;
  for (std::size_t i = 0; i < rates.size(); ++i) {
    const double start = static_cast<double>(random(i) >> 11) * 0x1p-53, before = micro_step;
    dropped.push_back(std::floor((before + 1.0) * rates[i] + start) >
                      std::floor(before * rates[i] + start));
  }
  return dropbp::DropPlan(dropped, setup.trainable_below, step, micro_step);
}

/// Drops each branch at a rate of its own.
template <class Sampling>
class Rates final : public PlanSource {
 public:
  Rates(Setup given, RateOptions options, Sampling sampling = {})
      : PlanSource(std::move(given)),
        options_(std::move(options)),
        schedule_(setup().costs,
                  {.drop_rate = setup().drop_rate,
                   .seed = setup().seed,
                   .trainable_below = setup().trainable_below},
                  std::move(sampling)),
        running_(setup().branches()) {}

  dropbp::DropPlan plan(std::uint64_t step, std::uint32_t micro_step) override {
    if (micro_step == 0 && options_.complete_steps && (step == 0 || due(step + 1)))
      schedule_.set_drop_rate(0.0);
    if (micro_step == 0 && due(step) && !options_.measured) {
      schedule_.set_drop_rate(rate_at(step));
      allocate(running_.sensitivities());
    }
    if (step >= setup().steps - setup().share_of_steps(options_.end)) schedule_.set_drop_rate(0.0);
    if (options_.stratified)
      return stratified_plan(setup(), schedule_.drop_rates(), step, micro_step);
    return schedule_.plan(step, micro_step);
  }
  void observe(std::span<const double>, const Observe& update) override {
    if (options_.allocate && !options_.measured) update(running_);
  }
  bool measures_at(std::uint64_t step) const override { return options_.measured && due(step); }
  void measured(std::span<const double> sensitivities) override { allocate(sensitivities); }

 private:
  bool due(std::uint64_t step) const {
    if (!options_.allocate) return false;
    const std::uint64_t first = setup().share_of_steps(options_.first),
                        period = setup().share_of_steps(options_.period);
    return step == first || (step > first && period > 0 && (step - first) % period == 0);
  }
  // That of the middle of the period that begins.
  double rate_at(std::uint64_t step) const {
    if (!options_.shape) return setup().drop_rate;
    const double at =
        static_cast<double>(step) / static_cast<double>(setup().steps) + 0.5 * options_.period;
    return std::clamp(setup().drop_rate * options_.shape(std::min(at, 1.0)), 0.0, 0.95);
  }
  void allocate(std::span<const double> sensitivities) {
    struct Policy {
      const std::function<std::vector<double>(const dropbp::AllocationInput&)>* call;
      std::vector<double> allocate(const dropbp::AllocationInput& input) const {
        return (*call)(input);
      }
    };
    schedule_.allocate(sensitivities, Policy{&options_.allocate});
  }

  RateOptions options_;
  dropbp::DropSchedule<Sampling> schedule_;
  dropbp::RunningSensitivity running_;
};

/// Trains the highest blocks alone.
class LastBlocks final : public PlanSource {
 public:
  /// `share`: of the kept blocks. All are kept in the first `complete` and the last `end` of the
  /// steps.
  explicit LastBlocks(Setup given, double share = 1.0, double complete = 0.0, double end = 0.0)
      : PlanSource(std::move(given)),
        begin_(setup().share_of_steps(complete)),
        end_(setup().steps - setup().share_of_steps(end)) {
    const double kept = share * static_cast<double>(setup().kept_blocks());
    const auto count = std::max<std::size_t>(1, static_cast<std::size_t>(std::lround(kept)));
    for (std::size_t i = 0; i < count; ++i) kept_.push_back(setup().blocks() - count + i);
  }
  dropbp::DropPlan plan(std::uint64_t step, std::uint32_t micro_step) override {
    if (step < begin_ || step >= end_) return Complete(setup()).plan(step, micro_step);
    return plan_keeping(step, micro_step, kept_);
  }

 private:
  std::uint64_t begin_, end_;
  std::vector<std::size_t> kept_;
};

/// Trains the blocks above a cut that moves in the course of the run, with the budget as its mean.
class MovingCut final : public PlanSource {
 public:
  /// `up`: the lowest blocks are frozen one after the other; otherwise they begin frozen, and train
  /// one after the other.
  MovingCut(Setup given, bool up) : PlanSource(std::move(given)), up_(up) {}
  dropbp::DropPlan plan(std::uint64_t step, std::uint32_t micro_step) override {
    const double at = (static_cast<double>(step) + 0.5) / static_cast<double>(setup().steps);
    const double frozen = 2.0 * setup().drop_rate * (up_ ? at : 1.0 - at);
    const auto blocks = static_cast<double>(setup().blocks());
    const auto first =
        static_cast<std::size_t>(std::clamp(std::round(frozen * blocks), 0.0, blocks - 1.0));
    std::vector<std::size_t> kept(setup().blocks() - first);
    std::iota(kept.begin(), kept.end(), first);
    return plan_keeping(step, micro_step, kept);
  }

 private:
  bool up_;
};

/// Trains the blocks above a cut, which is drawn anew for every step: its mean is the budget.
class RandomCut final : public PlanSource {
 public:
  using PlanSource::PlanSource;
  dropbp::DropPlan plan(std::uint64_t step, std::uint32_t micro_step) override {
    const dropbp::CounterRandom random(setup().seed, dropbp::RandomStream::user, step);
    // From 1 to 2 kept_blocks - 1, each as probable.
    const auto count = 1 + static_cast<std::size_t>(random(0) % (2 * setup().kept_blocks() - 1));
    std::vector<std::size_t> kept;
    for (std::size_t i = setup().blocks() - std::min(count, setup().blocks()); i < setup().blocks();
         ++i)
      kept.push_back(i);
    return plan_keeping(step, micro_step, kept);
  }
};

/// Keeps some blocks for a twentieth of the steps, then others. `next(period, random)` gives them.
class HeldBlocks : public PlanSource {
 public:
  explicit HeldBlocks(Setup given) : PlanSource(std::move(given)), random_(setup().seed) {}
  dropbp::DropPlan plan(std::uint64_t step, std::uint32_t micro_step) final {
    const std::uint64_t length = std::max<std::uint64_t>(1, setup().share_of_steps(0.05));
    if (micro_step == 0 && step % length == 0) kept_ = next(step / length, random_);
    return plan_keeping(step, micro_step, kept_);
  }

 private:
  virtual std::vector<std::size_t> next(std::uint64_t period, std::mt19937_64& random) = 0;

  std::mt19937_64 random_;
  std::vector<std::size_t> kept_;
};

/// Random blocks beside the embedding and the output layer: LISA (Pan et al., arXiv 2403.17919).
class RandomBlocks final : public HeldBlocks {
 public:
  using HeldBlocks::HeldBlocks;

 private:
  std::vector<std::size_t> next(std::uint64_t, std::mt19937_64& random) override {
    std::vector<std::size_t> blocks(setup().blocks());
    std::iota(blocks.begin(), blocks.end(), std::size_t{0});
    std::shuffle(blocks.begin(), blocks.end(), random);
    blocks.resize(setup().kept_blocks());
    return blocks;
  }
};

/// One group of neighbouring blocks after the other: BAdam (Luo et al., arXiv 2404.02827) with
/// groups as large as the budget.
class CyclicBlocks final : public HeldBlocks {
 public:
  using HeldBlocks::HeldBlocks;

 private:
  std::vector<std::size_t> next(std::uint64_t period, std::mt19937_64&) override {
    std::vector<std::size_t> blocks;
    for (std::size_t i = 0; i < setup().kept_blocks(); ++i)
      blocks.push_back((static_cast<std::size_t>(period) * setup().kept_blocks() + i) %
                       setup().blocks());
    return blocks;
  }
};

/// Like AdaGradSelect: now and then a complete step finds the blocks with the
/// largest gradient norms; other steps draw blocks by how often they were found. Its details are
/// ours: complete steps have a probability that falls from 0.5 with time constant 1/20 of the run.
class SelectedBlocks final : public PlanSource {
 public:
  explicit SelectedBlocks(Setup given)
      : PlanSource(std::move(given)), random_(setup().seed), found_(setup().blocks(), 1.0) {}

  dropbp::DropPlan plan(std::uint64_t step, std::uint32_t micro_step) override {
    if (micro_step == 0) choose(step);
    return plan_keeping(step, micro_step, kept_);
  }
  void observe(std::span<const double> squared_norms, const Observe&) override {
    if (kept_.size() < setup().blocks()) return;
    std::sort(kept_.begin(), kept_.end(), [&](std::size_t a, std::size_t b) {
      return squared_norms[2 * a] + squared_norms[2 * a + 1] >
             squared_norms[2 * b] + squared_norms[2 * b + 1];
    });
    for (std::size_t i = 0; i < setup().kept_blocks(); ++i) found_[kept_[i]] += 1.0;
  }

 private:
  void choose(std::uint64_t step) {
    const double explore =
        0.5 * std::exp(-20.0 * static_cast<double>(step) / static_cast<double>(setup().steps));
    kept_.clear();
    if (std::uniform_real_distribution<>()(random_) < explore) {
      kept_.resize(setup().blocks());
      std::iota(kept_.begin(), kept_.end(), std::size_t{0});
      return;
    }
    // Weights from a Dirichlet distribution over the counts, then draws without replacement.
    std::vector<double> weights;
    for (const double count : found_)
      weights.push_back(std::gamma_distribution<>(count)(random_) + 1e-12);
    while (kept_.size() < setup().kept_blocks()) {
      const std::size_t block =
          std::discrete_distribution<std::size_t>(weights.begin(), weights.end())(random_);
      weights[block] = 0.0;
      kept_.push_back(block);
    }
  }

  std::mt19937_64 random_;
  std::vector<double> found_;
  std::vector<std::size_t> kept_;
};

}  // namespace bench
