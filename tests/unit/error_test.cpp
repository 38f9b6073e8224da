// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Every message says what is required, what was given and what to do.
#include "dropbp/base/error.hpp"

#include <cstddef>
#include <limits>
#include <stdexcept>
#include <string>

#include "support/catch.hpp"

using dropbp::detail::is_finite;
using dropbp::detail::require_count;
using dropbp::detail::require_rate;
using limits = std::numeric_limits<double>;

TEST_CASE("An error message has three parts") {
  CHECK(dropbp::detail::sentence("A must be 1", "it is 2", "pass 1") ==
        "dropbp: A must be 1, but it is 2: pass 1");
}

TEST_CASE("Every unsigned type can appear in a message") {
  CHECK(dropbp::detail::text(0u) == "0");
  CHECK(dropbp::detail::text(~0ul) == std::to_string(~0ul));
  CHECK(dropbp::detail::text(~0ull) == "18446744073709551615");
  CHECK(dropbp::detail::text(std::size_t{7}) == "7");
  CHECK(dropbp::detail::text(0.25) == "0.25");
}

TEST_CASE("Infinities and NaN are recognised by their bits") {
  CHECK(is_finite(0.0));
  CHECK(is_finite(-limits::max()));
  CHECK(is_finite(limits::denorm_min()));
  CHECK_FALSE(is_finite(limits::infinity()));
  CHECK_FALSE(is_finite(-limits::infinity()));
  CHECK_FALSE(is_finite(limits::quiet_NaN()));
  CHECK_FALSE(is_finite(limits::signaling_NaN()));
}

TEST_CASE("A rate is a number from 0 to 1") {
  for (const double rate : {0.0, -0.0, 1.0, 0.5, limits::denorm_min()})
    CHECK_NOTHROW(require_rate(rate, "rate"));
  for (const double rate : {-limits::denorm_min(), 1.0 + limits::epsilon(), -1.0, 2.0,
                            limits::infinity(), -limits::infinity(), limits::quiet_NaN()}) {
    CAPTURE(rate);
    CHECK_THROWS_AS(require_rate(rate, "rate"), std::invalid_argument);
  }
}

TEST_CASE("An error about a wrong count names both counts") {
  CHECK_NOTHROW(require_count(3, 3, "rate"));
  try {
    require_count(2, 3, "rate");
    FAIL("a wrong count was taken");
  } catch (const std::invalid_argument& error) {
    CHECK(std::string(error.what()) ==
          "dropbp: one rate per branch is required (3 branches), but 2 were given: pass them in "
          "the order in which the model visits its layers");
  }
}
