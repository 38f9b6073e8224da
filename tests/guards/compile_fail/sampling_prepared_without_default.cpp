// expect: dropbp: a schedule.s third argument is a sampling policy
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A schedule holds what was prepared.
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "dropbp/schedule.hpp"

struct Own {
#ifdef DROPBP_TEST_WRONG
  struct Prepared {
    explicit Prepared(int) {}
  };
  Prepared prepare(const dropbp::SamplingInput&) const { return Prepared(0); }
#else
  struct Prepared {};
  Prepared prepare(const dropbp::SamplingInput&) const { return {}; }
#endif
  void draw(const Prepared&, const dropbp::CounterRandom&, std::span<std::uint8_t>) const {}
};

dropbp::DropSchedule<Own> use() { return dropbp::DropSchedule<Own>({1.0}); }
