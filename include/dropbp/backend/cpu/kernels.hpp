// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Kernels for contiguous host memory, in standard C++.
#pragma once

#include <cstddef>
#include <type_traits>

#include "dropbp/backend/kernels.hpp"
#include "dropbp/backend/scalar.hpp"

DROPBP_NAMESPACE_BEGIN

/// Kernels for n elements of float, double, long double or BFloat16 in host memory.
template <HostScalar Scalar>
struct backend_kernels<Cpu, Scalar> {
  /// y += x.
  static void accumulate(Scalar* y, const Scalar* x, std::size_t n) noexcept {
    for (std::size_t i = 0; i < n; ++i) y[i] = rounded(real(y[i]) + real(x[i]));
  }

  /// y *= factor. The factor is rounded to Scalar; for BFloat16 to float.
  static void scale(Scalar* y, double factor, std::size_t n) noexcept {
    const auto by = static_cast<decltype(real(*y))>(factor);
    for (std::size_t i = 0; i < n; ++i) y[i] = rounded(real(y[i]) * by);
  }

  /// Sum of x^2.
  static double squared_norm(const Scalar* x, std::size_t n) noexcept {
    return sum(n, [x](std::size_t i) {
      const double value = static_cast<double>(real(x[i]));
      return value * value;
    });
  }

  /// Sum of (x - y)^2.
  static double squared_distance(const Scalar* x, const Scalar* y, std::size_t n) noexcept {
    return sum(n, [x, y](std::size_t i) {
      const double difference = static_cast<double>(real(x[i])) - static_cast<double>(real(y[i]));
      return difference * difference;
    });
  }

 private:
  // The type that an element is computed in, and back.
  static auto real(Scalar x) noexcept {
    if constexpr (std::is_same_v<Scalar, BFloat16>)
      return to_float(x);
    else
      return x;
  }
  static Scalar rounded(auto x) noexcept {
    if constexpr (std::is_same_v<Scalar, BFloat16>)
      return from_float<BFloat16>(x);
    else
      return x;
  }

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
