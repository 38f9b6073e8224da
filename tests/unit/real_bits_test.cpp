// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Classifies and scales doubles by their bits.
#include "dropbp/base/real_bits.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.hpp"

using limits = std::numeric_limits<double>;
using dropbp::detail::exponent_of;
using dropbp::detail::is_nan;
using dropbp::detail::times_power_of_two;

TEST_CASE("NaN is distinguished from all numbers, infinities included") {
  for (const double number : {0.0, -0.0, 1.0, limits::denorm_min(), limits::max(),
                              limits::infinity(), -limits::infinity()})
    CHECK_FALSE(is_nan(number));
  for (const double bad : {limits::quiet_NaN(), -limits::quiet_NaN(), limits::signaling_NaN()})
    CHECK(is_nan(bad));
}

TEST_CASE("The exponent of a number equals ilogb, and that of 0 is below all others") {
  for (const double number :
       {1.0, 1.5, 2.0, 0.75, 1e300, 1e-300, -3.0, limits::max(), limits::min(),
        limits::denorm_min(), 3 * limits::denorm_min(), limits::min() - limits::denorm_min()})
    CHECK(exponent_of(number) == std::ilogb(number));
  CHECK(exponent_of(0.0) < exponent_of(limits::denorm_min()));
  CHECK(dropbp::detail::largest_exponent(std::vector<double>{0.3, 0.0, 5.0, 1e-9}) == 2);
}

TEST_CASE("A product with a power of two equals ldexp, from 0 to the largest number") {
  for (const double number : {0.0, 1.0, 1.7, -0.3, 1e300, 1e-300, limits::max(), limits::min(),
                              limits::denorm_min(), 5 * limits::denorm_min()})
    for (const int exponent : {0, 1, -1, 60, -60, 1000, -1000, 1074, 2000, -2097}) {
      CAPTURE(number, exponent);
      double expected = std::ldexp(number, exponent);
      if (std::fabs(expected) < limits::min()) expected = 0.0;
      if (std::isinf(expected)) expected = std::copysign(limits::max(), expected);
      CHECK(times_power_of_two(number, exponent) == expected);
    }
}

TEST_CASE("A magnitude has no sign bit, not even that of -0") {
  CHECK_FALSE(std::signbit(dropbp::detail::magnitude(-0.0)));
  CHECK(dropbp::detail::magnitude(-2.5) == 2.5);
  CHECK(dropbp::detail::magnitude(2.5) == 2.5);
}
