// expect: dropbp: the sampling policy.s max_kept_weight would never be called
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A bound that nobody reads would bound nothing.
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
  double max_kept_weight(const Prepared&) { return 1.0; }
#else
  double max_kept_weight(const Prepared&) const { return 1.0; }
#endif
};

dropbp::DropSchedule<Own> use() { return dropbp::DropSchedule<Own>({1.0}); }
