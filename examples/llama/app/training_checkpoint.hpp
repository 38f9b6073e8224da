// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Training checkpoints: a resumed run gives the same bits as an uninterrupted one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "llama/app/run_identity.hpp"
#include "llama/app/trainer.hpp"
#include "llama/formats/output_lock.hpp"

namespace llama {

/// The identity of the run in the newest intact checkpoint of `folder`; none without one.
[[nodiscard]] std::optional<RunIdentity> newest_identity(const std::filesystem::path& folder);

/// A folder with the two newest checkpoints of one run, `step-00000200.safetensors` after 200
/// steps. Each is one file, written atomically (see AtomicFile) and with checksums. It holds the
/// trained weights, the optimizer's moments and step counts, the handler's state, the running
/// sensitivities, the records of all steps and the run's identity. One process at a time may use
/// the folder.
class TrainingCheckpoints {
 public:
  /// Whether the object takes the folder's OutputLock, or the process already holds it.
  enum class FolderLock { take, taken };
  /// Creates the folder. Throws std::runtime_error if it cannot be written or another run uses it.
  TrainingCheckpoints(std::filesystem::path folder, RunIdentity identity,
                      FolderLock lock = FolderLock::take);
  TrainingCheckpoints(const TrainingCheckpoints&) = delete;
  TrainingCheckpoints& operator=(const TrainingCheckpoints&) = delete;

  /// Whether the folder has no checkpoint, damaged ones included.
  [[nodiscard]] bool empty() const;

  /// Restores the trainer from the newest checkpoint that is intact: complete, with right checksums
  /// and finite numbers. Returns false if there is none. Calls `note` for each damaged one, and
  /// where the checkpoint is the end of a run that is to have more steps now. Throws UsageError,
  /// naming the differences, if the identities differ, and std::runtime_error if the checkpoint
  /// does not fit the trainer; the trainer is then unchanged, unless reading from the disk failed
  /// half-way.
  template <class T, class Backend>
  bool resume(BasicTrainer<T, Backend>& trainer, const std::function<void(std::string_view)>& note);

  /// Writes the trainer's state after its last step, then removes all older checkpoints but the
  /// last good one. Throws std::runtime_error, and leaves all checkpoints unchanged, if that fails
  /// or a number of the state is not finite.
  template <class T, class Backend>
  void save(BasicTrainer<T, Backend>& trainer);

 private:
  void prune(std::uint64_t newest) const;
  void remove_leftovers() const;

  std::filesystem::path folder_;
  RunIdentity identity_;
  std::optional<std::uint64_t> last_good_;  // step of the checkpoint that was read or written last
  std::optional<OutputLock> lock_;
};

}  // namespace llama
