// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// dropbp skips the backward pass of randomly chosen residual branches. This header needs only a
// C++20 compiler and the standard library.
#pragma once

#include "dropbp/base/config.hpp"
#include "dropbp/drop_options.hpp"
#include "dropbp/dropbp_fwd.hpp"
#include "dropbp/flops.hpp"
#include "dropbp/handler.hpp"
#include "dropbp/layer.hpp"
#include "dropbp/model.hpp"
#include "dropbp/operation.hpp"
#include "dropbp/plan.hpp"
#include "dropbp/policy/allocation.hpp"
#include "dropbp/policy/depth_allocation.hpp"
#include "dropbp/policy/fixed_budget_sampling.hpp"
#include "dropbp/policy/optimal_allocation.hpp"
#include "dropbp/policy/per_stage_budget_sampling.hpp"
#include "dropbp/policy/running_sensitivity.hpp"
#include "dropbp/policy/sampling.hpp"
#include "dropbp/policy/sensitivity.hpp"
#include "dropbp/report.hpp"
#include "dropbp/schedule.hpp"
#include "dropbp/state.hpp"
#include "dropbp/tensor.hpp"
#include "dropbp/version.hpp"
