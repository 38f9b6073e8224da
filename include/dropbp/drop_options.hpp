// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The settings of a schedule.
#pragma once

#include <cstdint>
#include <vector>

#include "dropbp/plan.hpp"

DROPBP_NAMESPACE_BEGIN

/// The factor on a kept branch's share of the gradient, by its drop rate p.
enum class GradientScaling : std::uint8_t {
  none,              ///< 1, as published
  inverse_keep_rate  ///< 1 / (1 - p), both on what it passes down and on the gradients of its own
                     ///< parameters
};

/// Settings of a schedule.
struct DropOptions {
  double drop_rate = 0.5;       ///< target rate P in [0, 1]; every branch starts with it
  std::uint64_t seed = 0;       ///< seed of the plans; equal on all ranks
  bool trainable_below = true;  ///< something below the lowest branch is trainable (an embedding)
  PlanPer plan_per = PlanPer::micro_step;  ///< how often a plan is drawn
  /// With independent draws (BernoulliSampling), inverse_keep_rate makes the gradient unbiased: the
  /// forward pass is unchanged, and every factor I + (kept / (1 - p)) J^T of the backward pass has
  /// the mean I + J^T. With dependent draws, products of several factors are biased by the
  /// covariance of the draws. The variance grows with the rate.
  GradientScaling gradient_scaling = GradientScaling::none;
  /// Number of steps over which the rates grow linearly from 0 to their full values.
  std::uint64_t warmup_steps = 0;
  /// One entry per branch: its group, numbered from 0 (attention and MLP, pipeline stages). Empty:
  /// one group.
  std::vector<std::uint32_t> groups = {};
  /// One entry per branch: 0 if none of its parameters is trainable (its layer is frozen or has no
  /// adapter), otherwise 1. Empty: all are trainable. If nothing below the branches is trainable
  /// either, every plan also drops the branches below its lowest kept trainable one.
  std::vector<std::uint8_t> trainable = {};
  /// One entry per branch: the index of the branch that it is nested in (whose forward pass calls
  /// it), or its own index if it is not nested. Empty: no branch is nested. A plan that drops a
  /// branch also drops the branches nested in it, because no gradient can reach them. A nested
  /// branch is therefore kept if its own draw and those of all its parents keep it. Rates refer to
  /// a branch's own draw, and draws do not depend on parents. The cost of a branch excludes the
  /// branches nested in it.
  std::vector<std::uint32_t> parents = {};
};

DROPBP_NAMESPACE_END
