// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The states of a running sensitivity and of parameter ranges as text, beside that of a handler
// (state.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "dropbp/base/error.hpp"
#include "dropbp/base/real_text.hpp"
#include "dropbp/parameter_ranges.hpp"
#include "dropbp/policy/running_sensitivity.hpp"
#include "dropbp/state.hpp"

DROPBP_NAMESPACE_BEGIN

/// One line a field, one line a branch; numbers are exact in every locale. Throws
/// std::invalid_argument for a state whose lists are of different lengths.
DROPBP_LAZY
inline std::string to_text(const RunningSensitivity::State& state) {
  const std::size_t branches = state.own.size();
  detail::require_count(state.own_weights.size(), branches, "weight in a state");
  detail::require_count(state.ratios.size(), branches, "ratio in a state");
  detail::require_count(state.ratio_weights.size(), branches, "weight of a ratio in a state");
  detail::require_count(state.last.size(), branches, "last step in a state");
  std::string text = "dropbp-running 1\nstep " + std::to_string(state.step) + "\nbranches " +
                     std::to_string(branches) + "\n";
  for (std::size_t i = 0; i < branches; ++i)
    text += "branch " + detail::real_to_text(state.own[i]) + ' ' +
            detail::real_to_text(state.own_weights[i]) + ' ' +
            detail::real_to_text(state.ratios[i]) + ' ' +
            detail::real_to_text(state.ratio_weights[i]) + ' ' + std::to_string(state.last[i]) +
            '\n';
  return text + "end\n";
}

/// Reads what to_text wrote. Throws std::invalid_argument naming the line for anything else.
DROPBP_LAZY
inline RunningSensitivity::State running_state_from_text(std::string_view text) {
  detail::StateReader reader(text);
  RunningSensitivity::State state;
  reader.expect("dropbp-running");
  reader.expect_version("1");
  reader.expect("step"), state.step = reader.integer();
  reader.expect("branches");
  const std::uint64_t branches = reader.integer();
  if (branches > reader.remaining()) reader.fail("as many branches as follow");
  for (std::uint64_t i = 0; i < branches; ++i) {
    reader.expect("branch");
    state.own.push_back(reader.real());
    state.own_weights.push_back(reader.real());
    state.ratios.push_back(reader.real());
    state.ratio_weights.push_back(reader.real());
    state.last.push_back(reader.integer());
  }
  reader.expect_end();
  return state;
}

/// One line a field, one line a branch.
DROPBP_LAZY
inline std::string to_text(const ParameterRanges::State& state) {
  std::string text = "dropbp-ranges 1\nsteps " + std::to_string(state.steps) + "\nbranches " +
                     std::to_string(state.updates.size()) + "\n";
  for (const std::uint64_t updates : state.updates)
    text += "branch " + std::to_string(updates) + '\n';
  return text + "end\n";
}

/// Reads what to_text wrote. Throws std::invalid_argument naming the line for anything else.
DROPBP_LAZY
inline ParameterRanges::State ranges_state_from_text(std::string_view text) {
  detail::StateReader reader(text);
  ParameterRanges::State state;
  reader.expect("dropbp-ranges");
  reader.expect_version("1");
  reader.expect("steps"), state.steps = reader.integer();
  reader.expect("branches");
  const std::uint64_t branches = reader.integer();
  if (branches > reader.remaining()) reader.fail("as many branches as follow");
  for (std::uint64_t i = 0; i < branches; ++i) {
    reader.expect("branch");
    state.updates.push_back(reader.integer());
  }
  reader.expect_end();
  return state;
}

DROPBP_NAMESPACE_END
