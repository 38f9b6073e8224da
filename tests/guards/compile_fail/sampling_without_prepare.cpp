// expect: dropbp: a schedule.s third argument is a sampling policy
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A sampling policy prepares and draws.
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "dropbp/schedule.hpp"

struct Own {
  struct Prepared {};
#ifndef DROPBP_TEST_WRONG
  Prepared prepare(const dropbp::SamplingInput&) const { return {}; }
#endif
  void draw(const Prepared&, const dropbp::CounterRandom&, std::span<std::uint8_t>) const {}
};

dropbp::DropSchedule<Own> use() { return dropbp::DropSchedule<Own>({1.0}); }
