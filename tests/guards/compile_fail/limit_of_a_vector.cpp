// expect: dropbp: the sampling policy.s limit would never be called
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A cap that nobody applies would cap nothing.
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "dropbp/schedule.hpp"

struct Own {
  struct Prepared {};
  Prepared prepare(const dropbp::SamplingInput&) const { return {}; }
  void draw(const Prepared&, const dropbp::CounterRandom&, std::span<std::uint8_t>) const {}
#ifdef DROPBP_TEST_WRONG
  void limit(std::vector<double>&, const dropbp::SamplingInput&) const {}
#else
  void limit(std::span<double>, const dropbp::SamplingInput&) const {}
#endif
};

dropbp::DropSchedule<Own> use() { return dropbp::DropSchedule<Own>({1.0}); }
