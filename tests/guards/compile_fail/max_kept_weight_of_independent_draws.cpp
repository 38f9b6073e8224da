// expect: dropbp: max_kept_weight\(\) needs a sampling policy that bounds it
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Independent draws bound nothing.
#include "dropbp/policy/fixed_budget_sampling.hpp"
#include "dropbp/schedule.hpp"

#ifdef DROPBP_TEST_WRONG
using Sampling = dropbp::BernoulliSampling;
#else
using Sampling = dropbp::FixedBudgetSampling;
#endif

double use(const dropbp::DropSchedule<Sampling>& schedule) { return schedule.max_kept_weight(); }
