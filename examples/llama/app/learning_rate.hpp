// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// How the learning rate moves over a run.
#pragma once

#include <cstdint>

#include "llama/app/options.hpp"

namespace llama {

/// What AdamW's learning rate is multiplied by in step number `step`, from 0: a linear warm-up to
/// 1, then the schedule down to `final_learning_rate`. "wsd" (warm-up, stable, decay; Hu et al.,
/// "MiniCPM", 2024) stays at 1 until the last `decay` steps, over which it falls linearly. A pure
/// function of the options and the step.
[[nodiscard]] double learning_rate_scale(const Options& options, std::uint64_t step);

}  // namespace llama
