// expect: dropbp: a schedule.s third argument is a sampling policy
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A draw is a pure function.
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "dropbp/schedule.hpp"

struct Own {
  struct Prepared {};
  Prepared prepare(const dropbp::SamplingInput&) const { return {}; }
#ifdef DROPBP_TEST_WRONG
  void draw(const Prepared&, const dropbp::CounterRandom&, std::span<std::uint8_t>) {}
#else
  void draw(const Prepared&, const dropbp::CounterRandom&, std::span<std::uint8_t>) const {}
#endif
};

dropbp::DropSchedule<Own> use() { return dropbp::DropSchedule<Own>({1.0}); }
