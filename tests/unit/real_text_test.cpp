// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Doubles as text: a written number is read back bit for bit, and every other text is refused.
#include "dropbp/base/real_text.hpp"

#include <bit>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <string>

#include "dropbp/base/philox.hpp"
#include "support/catch.hpp"

namespace {

bool comes_back(double value) {
  const std::string text = dropbp::detail::real_to_text(value);
  double back = 12345.0;
  return dropbp::detail::real_from_text(text, back) &&
         std::bit_cast<std::uint64_t>(back) == std::bit_cast<std::uint64_t>(value) &&
         std::bit_cast<std::uint64_t>(std::strtod(text.c_str(), nullptr)) ==
             std::bit_cast<std::uint64_t>(value);
}

}  // namespace

TEST_CASE("Extreme doubles survive a round trip through text, and strtod reads the same") {
  using limits = std::numeric_limits<double>;
  for (const double value :
       {0.0, 1.0, 0.1, 0.5, 1.0 / 3.0, limits::max(), limits::min(), limits::denorm_min(),
        limits::min() - limits::denorm_min(), limits::epsilon(), 1.0 - limits::epsilon() / 2.0}) {
    CAPTURE(value);
    CHECK(comes_back(value));
    CHECK(comes_back(-value));
  }
}

TEST_CASE("Random bit patterns survive a round trip through text") {
  const dropbp::CounterRandom random(7, dropbp::RandomStream::user, 0);
  std::uint32_t bad = 0;
  for (std::uint32_t i = 0; i < 100000; ++i) {
    std::uint64_t bits = random(i);
    if (((bits >> 52) & 0x7ff) == 0x7ff) bits &= ~(std::uint64_t{1} << 62);  // finite
    if (i % 3 == 0) bits &= ~(((std::uint64_t{1} << (bits % 53)) - 1));      // trailing zeros
    if (i % 5 == 0) bits &= ~(std::uint64_t{0x7ff} << 52);                   // subnormal
    bad += !comes_back(std::bit_cast<double>(bits));
  }
  CHECK(bad == 0);
}

TEST_CASE("The text of known doubles is pinned") {
  CHECK(dropbp::detail::real_to_text(0.0) == "0x0p0");
  CHECK(dropbp::detail::real_to_text(-0.0) == "-0x0p0");
  CHECK(dropbp::detail::real_to_text(0.75) == "0x1.8p-1");
  CHECK(dropbp::detail::real_to_text(std::numeric_limits<double>::denorm_min()) ==
        "0x0.0000000000001p-1022");
  CHECK(dropbp::detail::real_to_text(std::numeric_limits<double>::max()) ==
        "0x1.fffffffffffffp1023");
}

TEST_CASE("Any other spelling of a double is refused and does not change the value") {
  for (const char* const text : {"",
                                 "-",
                                 "0",
                                 "0x",
                                 "0x1",
                                 "0x1p",
                                 "0x1p-",
                                 "0x1.p0",
                                 "0x1.0p0",
                                 "0x1.80p-1",
                                 "0x2p0",
                                 "0x1p00",
                                 "0x1p01",
                                 "0x1p-0",
                                 "0x1p+0",
                                 "0x1p1024",
                                 "0x1p-1023",
                                 "0x0p1",
                                 "0x0.8p-1021",
                                 "0x0.8p0",
                                 "0X1p0",
                                 "0x1P0",
                                 "0x1.Ap0",
                                 "0x1.gp0",
                                 "0x1.00000000000001p0",
                                 "+0x1p0",
                                 " 0x1p0",
                                 "0x1p0 ",
                                 "--0x1p0",
                                 "0x1p0x",
                                 "1.5",
                                 "nan",
                                 "inf",
                                 "0x1p99999999999999999999",
                                 "0x0p-1022",
                                 "0x1.8p-1\n"}) {
    CAPTURE(text);
    double value = 5.0;
    CHECK_FALSE(dropbp::detail::real_from_text(text, value));
    CHECK(value == 5.0);
  }
}
