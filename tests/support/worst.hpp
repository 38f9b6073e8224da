// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The largest of many errors. Not std::max, which a NaN passes unseen; a NaN stays, whatever comes after it.
#pragma once

namespace dropbp::test {

inline void keep_worst(double& worst, double error) {
  if (!(error <= worst) && worst == worst) worst = error;
}

}  // namespace dropbp::test
