// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Outputs of a run, checked and locked before the training begins.
#pragma once

#include <deque>
#include <filesystem>
#include <optional>

#include "llama/app/options.hpp"
#include "llama/formats/output_lock.hpp"

namespace llama {

/// Throws if an output cannot be written or would replace another file of the run. Called before
/// the training, not after it. Creates the folders of models and adapters.
void prepare_outputs(const Options& options);

/// Locks all outputs until the run ends. Creates the folder of the checkpoints too.
class OutputLocks {
 public:
  explicit OutputLocks(const Options& options);

 private:
  void add(Output kind, const std::optional<std::filesystem::path>& output);

  std::deque<OutputLock> locks_;
};

}  // namespace llama
