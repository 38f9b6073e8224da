// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// `--drop-rate auto`: whether dropping pays is measured on the model and the data themselves.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "llama/app/trainer.hpp"

namespace llama {

/// With fewer steps the trials would take more than a fifth of the run's time.
inline constexpr std::uint64_t least_steps_for_trials = 100;

/// Each trial takes the time of a fortieth of the run's steps, but of at least 10 and at most 100
/// steps, with a complete learning-rate schedule. All ranks have the same result. Throws UsageError
/// without tokens to validate on; otherwise as the trainer.
template <class T, class Backend>
[[nodiscard]] Trials run_trials(const Options& options, const LlamaConfig& config,
                                const TrainingData& data, Ranks* ranks);

/// A sentence with the losses and the choice.
[[nodiscard]] std::string text_of(const Trials& trials);

/// With --drop-rate auto, gives the options the rate and the allocation of the better trial, and
/// returns both trials. A run that is resumed keeps what its checkpoint has. Unless --quiet is
/// given, `note` is told what is chosen, and why. Throws UsageError for a run of fewer than
/// least_steps_for_trials, otherwise as run_trials.
template <class T, class Backend>
[[nodiscard]] std::optional<Trials> decide_drop_rate(
    Options& options, const LlamaConfig& config, const TrainingData& data, Ranks& ranks,
    const std::function<void(std::string_view)>& note);

}  // namespace llama
