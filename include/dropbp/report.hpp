// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Reports what was dropped and what it saved, to verify that dropping works.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "dropbp/base/config.hpp"
#include "dropbp/model.hpp"

DROPBP_NAMESPACE_BEGIN

/// Counts of one branch since the handler was made or its state restored. Passes of measurements
/// are not counted.
struct BranchReport {
  double cost = 0.0;          ///< cost of one forward pass, in the model's unit
  double drop_rate = 0.0;     ///< its current rate
  std::uint64_t kept = 0;     ///< micro-steps whose plan kept it
  std::uint64_t dropped = 0;  ///< micro-steps whose plan dropped it
  BranchCalls calls;          ///< passes that ran; evaluations count as forward passes
};

/// Counts of all branches, from DropBPHandler::report().
struct Report {
  std::vector<BranchReport> branches;  ///< in the order of the forward pass
  std::uint64_t micro_steps = 0;       ///< begun so far, in all steps

  /// Share of all (branch, micro-step) pairs that were dropped; 0 before the first step.
  DROPBP_LAZY
  double mean_drop_rate() const {
    std::uint64_t dropped = 0;
    for (const BranchReport& branch : branches) dropped += branch.dropped;
    const double pairs = static_cast<double>(micro_steps) * static_cast<double>(branches.size());
    return pairs > 0.0 ? static_cast<double>(dropped) / pairs : 0.0;
  }

  /// Share of the branches' backward cost that was still spent; 1 before the first step.
  DROPBP_LAZY
  double backward_cost_fraction() const {
    double kept = 0.0, all = 0.0;
    for (const BranchReport& branch : branches) {
      kept += branch.cost * static_cast<double>(branch.kept);
      all += branch.cost * static_cast<double>(branch.kept + branch.dropped);
    }
    return all > 0.0 ? kept / all : 1.0;
  }

  /// Whether every branch ran its backward exactly as often as it was kept; false if layers are
  /// skipped, called twice, or run without begin_step.
  DROPBP_LAZY
  bool consistent() const {
    for (const BranchReport& branch : branches)
      if (branch.calls.backward != branch.kept) return false;
    return micro_steps > 0;
  }
};

/// A table as text: one line per branch, then the totals.
DROPBP_LAZY
inline std::string to_text(const Report& report) {
  std::string text = "branch       cost   rate      kept   dropped   forward  backward\n";
  char line[160];
  for (std::size_t i = 0; i < report.branches.size(); ++i) {
    const BranchReport& branch = report.branches[i];
    std::snprintf(line, sizeof line, "%6zu %10.4g %6.3f %9llu %9llu %9llu %9llu\n", i, branch.cost,
                  branch.drop_rate, static_cast<unsigned long long>(branch.kept),
                  static_cast<unsigned long long>(branch.dropped),
                  static_cast<unsigned long long>(branch.calls.forward),
                  static_cast<unsigned long long>(branch.calls.backward));
    text += line;
  }
  std::snprintf(line, sizeof line,
                "%llu micro-steps, mean drop rate %.4f, backward cost of the branches %.1f %%%s\n",
                static_cast<unsigned long long>(report.micro_steps), report.mean_drop_rate(),
                100.0 * report.backward_cost_fraction(),
                report.micro_steps == 0 ? ": no step has begun"
                : report.consistent()   ? ""
                                        : ": backward calls do not match the plans");
  return text + line;
}

DROPBP_NAMESPACE_END
