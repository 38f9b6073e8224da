// expect: dropbp: a schedule.s third argument is a sampling policy
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What a sampling policy prepares has a name.
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "dropbp/schedule.hpp"

struct Own {
#ifdef DROPBP_TEST_WRONG
  int prepare(const dropbp::SamplingInput&) const { return 0; }
  void draw(int, const dropbp::CounterRandom&, std::span<std::uint8_t>) const {}
#else
  struct Prepared {};
  Prepared prepare(const dropbp::SamplingInput&) const { return {}; }
  void draw(const Prepared&, const dropbp::CounterRandom&, std::span<std::uint8_t>) const {}
#endif
};

dropbp::DropSchedule<Own> use() { return dropbp::DropSchedule<Own>({1.0}); }
