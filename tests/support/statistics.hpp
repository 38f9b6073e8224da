// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Bounds for observed frequencies. They hold exactly for any number of observations.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

namespace dropbp_test {

/// The logarithm of an upper bound of the probability that a binomial count of n draws at rate p is
/// at least as far from the mean as k, on the same side. It is Chernoff's n KL(k/n || p), valid for
/// every n and p.
inline double log_tail_bound(std::uint64_t k, std::uint64_t n, double p) {
  const double impossible = -std::numeric_limits<double>::infinity();
  const double count = static_cast<double>(n);
  const double q = static_cast<double>(k) / count;
  if ((p <= 0.0 && k > 0) || (p >= 1.0 && k < n)) return impossible;
  double divergence = 0.0;
  if (k > 0) divergence += q * std::log(q / p);
  if (k < n) divergence += (1.0 - q) * (std::log1p(-q) - std::log1p(-p));
  return -count * divergence;
}

/// Whether a count of k in n draws at rate p is plausible. With `checks` such questions in a run, a
/// wrong answer occurs in at most one of 1e9 runs.
inline bool frequency_is_plausible(std::uint64_t k, std::uint64_t n, double p, double checks) {
  return log_tail_bound(k, n, p) >= std::log(1e-9 / (2.0 * checks));
}

}  // namespace dropbp_test
