// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What a user's header may say with the names alone, default template arguments among it.
#pragma once

#include <dropbp/dropbp_fwd.hpp>

struct Model;

struct Trainer {
  dropbp::DropBPHandler<Model>* handler = nullptr;
  const dropbp::DropSchedule<>* schedule = nullptr;
  const dropbp::OptimalAllocation<>* allocation = nullptr;
};

bool keeps_all(const dropbp::DropPlan& plan);
bool keeps_all(const Trainer& trainer);
bool keeps_all(dropbp::PlanPer per, dropbp::GradientScaling scaling,
               const dropbp::HandlerState& state);
bool forward_only(const Trainer& trainer);
