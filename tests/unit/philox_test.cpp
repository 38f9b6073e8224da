// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The random numbers: known answers, and no two uses share bits.
#include "dropbp/base/philox.hpp"

#include <cstdint>
#include <set>
#include <utility>

#include "support/catch.hpp"

using dropbp::CounterRandom;
using dropbp::philox4x32;
using dropbp::PhiloxCounter;
using dropbp::RandomStream;

// Random123 1.14, tests/kat_vectors: philox 4x32 10.
static_assert(philox4x32({0, 0, 0, 0}, {0, 0}) ==
              PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
static_assert(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
                         {0xffffffff, 0xffffffff}) ==
              PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
static_assert(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
                         {0xa4093822, 0x299f31d0}) ==
              PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});

TEST_CASE("Philox gives the Random123 known answers at run time") {
  CHECK(philox4x32({0, 0, 0, 0}, {0, 0}) ==
        PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}) ==
        PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("CounterRandom puts seed, stream, step, micro-step and index into separate bits") {
  // key: the seed; counter: the pair's index; stream and micro-step; step.
  const CounterRandom random(0x299f31d0a4093822u, static_cast<RandomStream>(0x85),
                             0x0370734413198a2eu, 0xa308d3);
  const auto pair = random.pair(0x243f6a88);
  CHECK(pair[0] == 0x94fdccebd16cfe09u);
  CHECK(pair[1] == 0x24126ea15001e420u);
}

TEST_CASE("An index selects one half of its pair of numbers") {
  const CounterRandom random(1, RandomStream::user, 2, 3);
  for (std::uint32_t i = 0; i < 100; ++i) {
    CHECK(random(2 * i) == random.pair(i)[0]);
    CHECK(random(2 * i + 1) == random.pair(i)[1]);
  }
}

TEST_CASE("Numbers do not repeat over seeds, streams, steps, micro-steps and indices") {
  std::set<std::uint64_t> seen;
  std::size_t drawn = 0;
  for (const std::uint64_t seed : {0ull, 1ull, 1ull << 32, ~0ull})
    for (const RandomStream stream :
         {RandomStream::drop_decision, RandomStream::sampling_order, RandomStream::user})
      for (const std::uint64_t step : {0ull, 1ull, 0xffffffffull, 0x100000000ull, ~0ull})
        for (const std::uint32_t micro_step : {0u, 1u, CounterRandom::max_micro_step})
          for (std::uint64_t index = 0; index < 16; ++index, ++drawn)
            seen.insert(CounterRandom(seed, stream, step, micro_step)(index));
  CHECK(seen.size() == drawn);
}
