// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The best validation loss of a run: when it was, when to stop waiting for a better one, and the
// weights that had it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <vector>

#include "llama/app/trainer.hpp"

namespace llama {

struct BestLoss {
  std::uint64_t steps = 0;  ///< done when it was measured
  double loss = 0.0;        ///< the least; of equal ones the first
  std::uint64_t since = 0;  ///< validation losses that were measured after it
};

/// None where nothing was validated. A function of the records alone, so that a resumed run stops
/// and chooses as one that was not interrupted.
[[nodiscard]] std::optional<BestLoss> best_of(std::span<const StepRecord> records);

/// Files `best-00000120.safetensors` in the folder of the checkpoints, with the weights that train.
/// Each checkpoint there finds the best weights of its past: a run that is resumed from it may end
/// before there are better ones. The folder must be the process's own (OutputLock).
class BestWeights {
 public:
  /// For a trainer that is new or resumed. Removes what killed runs left half-written. Throws
  /// UsageError where the resumed run's best weights
  /// are not there, as it was begun without this.
  BestWeights(std::filesystem::path folder, std::span<const StepRecord> records);

  /// Call it after a validation; writes the trainer's weights where that was the best.
  template <class T, class Backend>
  void save(BasicTrainer<T, Backend>& trainer);
  /// Call it after a checkpoint was saved; removes what no checkpoint needs.
  void prune(std::span<const StepRecord> records);
  /// Gives the trainer's model the best weights. Throws std::runtime_error, with the model as it
  /// was, for a file that is damaged or of another model.
  template <class T, class Backend>
  void load(BasicTrainer<T, Backend>& trainer) const;

 private:
  [[nodiscard]] std::filesystem::path path_of(std::uint64_t steps) const;
  [[nodiscard]] std::vector<std::uint64_t> files() const;

  std::filesystem::path folder_;
  std::optional<std::uint64_t> of_checkpoint_;  // the best weights that the last checkpoint needs
  std::optional<std::uint64_t> newest_;         // saved since then
};

}  // namespace llama
