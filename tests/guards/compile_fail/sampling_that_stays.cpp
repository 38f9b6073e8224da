// expect: dropbp: a schedule.s third argument is a sampling policy
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A schedule is a value.
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "dropbp/schedule.hpp"

struct Own {
#ifdef DROPBP_TEST_WRONG
  const int seed = 0;
#else
  int seed = 0;
#endif
  struct Prepared {};
  Prepared prepare(const dropbp::SamplingInput&) const { return {}; }
  void draw(const Prepared&, const dropbp::CounterRandom&, std::span<std::uint8_t>) const {}
};

dropbp::DropSchedule<Own> use() { return dropbp::DropSchedule<Own>({1.0}); }
