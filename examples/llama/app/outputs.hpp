// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What a run writes: checked and locked before the training begins.
#pragma once

#include <deque>
#include <filesystem>
#include <optional>

#include "llama/app/options.hpp"
#include "llama/formats/output_lock.hpp"

namespace llama {

/// Throws for an output that could not be written, or that would replace another file of the run,
/// now and not after hours of training. Creates the folders of models and adapters.
void prepare_outputs(const Options& options);

/// The locks on all that a run writes, until it ends. Creates the folder of the checkpoints too.
class OutputLocks {
 public:
  explicit OutputLocks(const Options& options);

 private:
  void add(Output kind, const std::optional<std::filesystem::path>& output);

  std::deque<OutputLock> locks_;
};

}  // namespace llama
