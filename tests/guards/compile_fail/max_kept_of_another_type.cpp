// expect: dropbp: the sampling policy.s max_kept would never be called
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
  int max_kept(const Prepared&, std::uint32_t) const { return 1; }
#else
  std::size_t max_kept(const Prepared&, std::uint32_t) const { return 1; }
#endif
};

dropbp::DropSchedule<Own> use() { return dropbp::DropSchedule<Own>({1.0}); }
