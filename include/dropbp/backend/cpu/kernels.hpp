// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Kernels for contiguous host memory, in standard C++.
#pragma once

#include <concepts>
#include <cstddef>

#include "dropbp/backend/kernels.hpp"

DROPBP_NAMESPACE_BEGIN

/// Kernels for n elements of float, double or long double in host memory.
template <std::floating_point Scalar>
struct backend_kernels<Cpu, Scalar> {
  /// y += x.
  static void accumulate(Scalar* y, const Scalar* x, std::size_t n) noexcept {
    for (std::size_t i = 0; i < n; ++i) y[i] += x[i];
  }

  /// y *= factor, rounded to Scalar.
  static void scale(Scalar* y, double factor, std::size_t n) noexcept {
    const Scalar by = static_cast<Scalar>(factor);
    for (std::size_t i = 0; i < n; ++i) y[i] *= by;
  }

  /// Sum of x^2.
  static double squared_norm(const Scalar* x, std::size_t n) noexcept {
    return sum(n, [x](std::size_t i) {
      const double value = static_cast<double>(x[i]);
      return value * value;
    });
  }

  /// Sum of (x - y)^2.
  static double squared_distance(const Scalar* x, const Scalar* y, std::size_t n) noexcept {
    return sum(n, [x, y](std::size_t i) {
      const double difference = static_cast<double>(x[i]) - static_cast<double>(y[i]);
      return difference * difference;
    });
  }

 private:
  // Eight partial sums in a fixed order: the compiler may vectorise them without reordering
  // additions, so the bits do not depend on the optimisation level.
  template <class Term>
  static double sum(std::size_t n, Term term) noexcept {
    double lanes[8] = {};
    std::size_t i = 0;
    for (; i + 8 <= n; i += 8)
      for (std::size_t lane = 0; lane < 8; ++lane) lanes[lane] += term(i + lane);
    for (std::size_t lane = 0; i < n; ++i, ++lane) lanes[lane] += term(i);
    return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) +
           ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
  }
};

DROPBP_NAMESPACE_END
