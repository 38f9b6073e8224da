// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// One training run: model, handler, optimizer and data, advanced a step at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include <dropbp/dropbp.hpp>
#include <dropbp/ops/adamw.hpp>
#include <dropbp/policy/sharp_allocation.hpp>

#include "llama/app/data.hpp"
#include "llama/app/options.hpp"
#include "llama/app/rank_gradients.hpp"
#include "llama/app/ranks.hpp"
#include "llama/app/report.hpp"
#include "llama/app/training_data.hpp"
#include "llama/model/model.hpp"

namespace llama {

/// The allocation policy chosen on the command line. A policy is any class with this one function.
struct ChosenAllocation {
  AllocationChoice choice = AllocationChoice::greedy;

  bool needs_sensitivities() const noexcept {
    return choice != AllocationChoice::uniform && choice != AllocationChoice::depth;
  }
  std::vector<double> allocate(const dropbp::AllocationInput& input) const {
    switch (choice) {
      case AllocationChoice::uniform:
        return dropbp::UniformAllocation{}.allocate(input);
      case AllocationChoice::greedy:
        return dropbp::GreedyAllocation{}.allocate(input);
      case AllocationChoice::sharp:
        return dropbp::SharpAllocation{}.allocate(input);
      case AllocationChoice::depth:
        return dropbp::DepthAllocation{}.allocate(input);
      case AllocationChoice::optimal:
        break;
    }
    // Every branch is kept at least a quarter as often as the average, because a branch that is
    // never kept is never trained.
    return dropbp::OptimalAllocation<>{.max_rates = {1.0 - 0.25 * (1.0 - input.drop_rate)}}
        .allocate(input);
  }
};

/// The sampling policy chosen on the command line.
struct ChosenSampling {
  using Policy = std::variant<dropbp::BernoulliSampling, dropbp::AtLeastTargetSampling,
                              dropbp::FixedBudgetSampling>;
  using Prepared =
      std::variant<dropbp::BernoulliSampling::Prepared, dropbp::AtLeastTargetSampling::Prepared,
                   dropbp::FixedBudgetSampling::Prepared>;
  Policy policy;

  Prepared prepare(const dropbp::SamplingInput& input) const {
    return std::visit([&](const auto& chosen) { return Prepared(chosen.prepare(input)); }, policy);
  }
  void draw(const Prepared& prepared, const dropbp::CounterRandom& random,
            std::span<std::uint8_t> dropped, std::span<std::uint32_t> work) const {
    std::visit(
        [&]<class Chosen>(const Chosen& chosen) {
          const auto& own = std::get<typename Chosen::Prepared>(prepared);
          if constexpr (std::is_same_v<Chosen, dropbp::FixedBudgetSampling>)
            chosen.draw(own, random, dropped, work);
          else
            chosen.draw(own, random, dropped);
        },
        policy);
  }

  /// Null for the other policies, which have no bound.
  const dropbp::FixedBudgetSampling* fixed_budget() const noexcept {
    return std::get_if<dropbp::FixedBudgetSampling>(&policy);
  }
  void limit(std::span<double> rates, const dropbp::SamplingInput& input) const {
    if (const auto* chosen = fixed_budget()) chosen->limit(rates, input);
  }
  std::size_t max_kept(const Prepared& prepared, std::uint32_t group) const {
    const auto* const chosen = fixed_budget();
    return chosen != nullptr
               ? chosen->max_kept(std::get<dropbp::FixedBudgetSampling::Prepared>(prepared), group)
               : std::numeric_limits<std::size_t>::max();
  }
  double max_kept_weight(const Prepared& prepared) const {
    const auto* const chosen = fixed_budget();
    return chosen != nullptr
               ? chosen->max_kept_weight(std::get<dropbp::FixedBudgetSampling::Prepared>(prepared))
               : dropbp::FixedBudgetSampling::no_limit;
  }
};

/// The state of a run between two steps, without its weights and its optimizer.
struct RunState {
  dropbp::HandlerState handler;
  dropbp::RunningSensitivity::State running;
  std::vector<StepRecord> records;  ///< of every step so far
  std::optional<double> last_validation_loss;
  double training_seconds = 0.0;
  double measurement_seconds = 0.0;
};

/// Trains one model at one target drop rate. T and Backend are the model's.
template <class T, class Backend>
class BasicTrainer {
 public:
  /// `data` must outlive the trainer, and so must `ranks`, of which there are `options.ranks`; null
  /// is this process alone. Throws std::runtime_error for a checkpoint or data that do not fit, and
  /// UsageError for an activation budget that no plan fits, and for several ranks on a device.
  BasicTrainer(const Options& options, const LlamaConfig& config, const TrainingData& data,
               double drop_rate, Ranks* ranks = nullptr);

  /// Runs step number steps_done(). Throws std::runtime_error if the loss or a gradient is not
  /// finite, or if squares of gradients overflow a float; weights, moments and records are then
  /// unchanged.
  /// On a device waits once, for the loss and the norms; the update may still run on return. The
  /// record's times are set by the next step, or by records(), which waits.
  const StepRecord& step();
  std::uint64_t steps_done() const noexcept { return records_.size(); }

  /// Mean loss over the labels of the fixed validation batches; recorded with the last step. Throws
  /// std::runtime_error, with nothing recorded, where it is not finite.
  double validate();
  bool can_validate() const noexcept { return validation_ != nullptr; }

  /// Seconds of training steps so far, without validation and measurements of sensitivities. Waits
  /// for the last step, as records(), summary() and state() do.
  double training_seconds() const {
    settle();
    return training_seconds_;
  }
  double measurement_seconds() const noexcept { return measurement_seconds_; }

  const dropbp::RunningSensitivity& running_sensitivity() const noexcept { return running_; }
  std::span<const double> drop_rates() const noexcept { return handler_.drop_rates(); }

  std::span<const StepRecord> records() const {
    settle();
    return records_;
  }
  Summary summary() const;
  dropbp::Report drop_report() const { return handler_.report(); }
  LlamaModel<T, Backend>& model() noexcept { return model_; }
  ops::AdamW<T, Backend>& optimizer() noexcept { return optimizer_; }

  /// This state, the weights and the optimizer's state determine all further steps: batches are a
  /// function of seed and step.
  RunState state() const;
  /// Continues after the last step of `state`. Throws std::invalid_argument, and changes nothing,
  /// if it is of another model.
  void restore(RunState state);

  /// Most bytes that the kept branches of a plan save, at the current rates; the bytes of all
  /// branches if the sampling has no bound.
  std::size_t activation_bound() const;

 private:
  void draw_plan(std::uint64_t step, std::uint32_t micro_step);
  dropbp::DeferredNumber loss_and_gradients(PassMarks<Backend>& marks,
                                            const PassObserver* observer);
  dropbp::DeferredNumber micro_step(std::uint64_t step, std::uint32_t micro_step,
                                    const std::vector<dropbp::DeferredNumber>& losses_before,
                                    PassMarks<Backend>& marks);
  double over_ranks(double sum) const;
  void settle() const;
  double clip_factor(double gradient_norm) const;
  bool allocation_due(std::uint64_t step) const;
  void allocate();
  std::size_t kept_activation_bytes() const;
  void reserve_activations(std::size_t kept_bytes);
  void observe_gradients(std::span<const double> squared_norms);

  Options options_;
  Ranks* ranks_;  // null: alone
  LlamaModel<T, Backend> model_;
  dropbp::DropBPHandler<LlamaModel<T, Backend>, ChosenAllocation, ChosenSampling> handler_;
  dropbp::ops::AdamW<T, Backend> optimizer_;
  std::unique_ptr<BatchSource> source_;
  std::unique_ptr<EvaluationSource> validation_;
  Batch batch_;
  std::vector<std::size_t> branch_of_parameter_;  // by parameter, handler_.size() for none
  std::unique_ptr<RankGradients<T>> shared_;      // null: alone
  dropbp::RunningSensitivity running_;
  mutable std::vector<StepRecord> records_;
  mutable std::optional<PassMarks<Backend>> unsettled_;  // the times of the last record
  std::optional<double> last_validation_loss_;
  std::uint64_t tokens_seen_ = 0;
  mutable double training_seconds_ = 0.0;
  double measurement_seconds_ = 0.0;
};

/// On the CPU.
using Trainer = BasicTrainer<float, dropbp::Cpu>;

extern template class BasicTrainer<float, dropbp::Cpu>;

}  // namespace llama
