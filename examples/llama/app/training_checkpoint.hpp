// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Checkpoints of a running training, from which it goes on as if it had never stopped.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "llama/app/trainer.hpp"
#include "llama/formats/output_lock.hpp"

namespace llama {

/// What decides the bits of a run, as (flag, value): the flags that a resumed run must repeat, and
/// checksums of the tokens and of the weights that do not train.
using RunIdentity = std::vector<std::pair<std::string, std::string>>;
[[nodiscard]] RunIdentity identity_of(const Options& options, const LlamaConfig& config,
                                      const TrainingData& data, const ops::LoraConfig& adaptation,
                                      std::uint32_t base_checksum);
/// Of a run with this model.
[[nodiscard]] RunIdentity identity_of(const Options& options, const LlamaConfig& config,
                                      const TrainingData& data, const auto& model) {
  return identity_of(options, config, data, model.adaptation(), model.base_checksum());
}

/// A folder with the two newest checkpoints of one run, `step-00000200.safetensors` after 200
/// steps. Each is one file that appears by one rename (see AtomicFile), and holds the trained
/// weights, the optimizer's moments and step counts, the handler's state, running sensitivities,
/// the figures of all steps and the run's identity, under checksums. The folder belongs to one
/// process at a time.
class TrainingCheckpoints {
 public:
  /// Whether the object takes the folder's OutputLock or the process has it.
  enum class FolderLock { take, taken };
  /// Creates the folder. Throws std::runtime_error if it cannot be written or another run uses it.
  TrainingCheckpoints(std::filesystem::path folder, RunIdentity identity,
                      FolderLock lock = FolderLock::take);
  TrainingCheckpoints(const TrainingCheckpoints&) = delete;
  TrainingCheckpoints& operator=(const TrainingCheckpoints&) = delete;

  /// Whether any checkpoint is there, damaged or not.
  [[nodiscard]] bool empty() const;

  /// Brings the trainer to where the newest intact checkpoint was written, which is whole and has
  /// finite numbers alone; false if there is none.
  /// `note` is told of each damaged one. A run whose steps were all done may be given more of them;
  /// `note` is told so. Throws UsageError if the identities differ, naming how,
  /// and std::runtime_error for a checkpoint that does not fit the trainer; the trainer is then as
  /// it was, unless the disk failed half-way.
  template <class T, class Backend>
  bool resume(BasicTrainer<T, Backend>& trainer, const std::function<void(std::string_view)>& note);

  /// Writes the trainer's state after its last step, then removes all older checkpoints but the
  /// last good one. Throws std::runtime_error, with every checkpoint as it was: also for a state
  /// with a number that is not finite.
  template <class T, class Backend>
  void save(BasicTrainer<T, Backend>& trainer);

 private:
  std::vector<std::pair<std::uint64_t, std::filesystem::path>> list() const;  // from the oldest
  void prune(std::uint64_t newest) const;
  void remove_leftovers() const;

  std::filesystem::path folder_;
  RunIdentity identity_;
  std::optional<std::uint64_t> last_good_;  // step of the checkpoint that was read or written last
  std::optional<OutputLock> lock_;
};

}  // namespace llama
