// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The names first, then the definitions.
#include "names.hpp"

#include <dropbp/dropbp.hpp>
#include <dropbp/steady_clock.hpp>

bool keeps_all(const dropbp::DropPlan& plan) { return plan.dropped_count() == 0; }
bool keeps_all(const Trainer& trainer) { return keeps_all(trainer.schedule->plan(0)); }
