// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The largest of many errors. std::max would lose a NaN; here a NaN stays the result.
#pragma once

#include <limits>

namespace dropbp::test {

constexpr void keep_worst(double& worst, double error) {
  if (!(error <= worst) && worst == worst) worst = error;
}
static_assert([] {
  double worst = 0.0;
  keep_worst(worst, std::numeric_limits<double>::quiet_NaN());
  keep_worst(worst, 1.0);
  return worst != worst;
}());

}  // namespace dropbp::test
