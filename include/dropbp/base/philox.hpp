// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Philox4x32-10, the counter-based generator of Salmon et al., "Parallel Random Numbers: As Easy as
// 1, 2, 3" (SC 2011): the same bits for the same (key, counter) on every compiler, rank and device.
#pragma once

#include <array>
#include <cstdint>

#include "dropbp/base/config.hpp"

DROPBP_NAMESPACE_BEGIN

/// The counter: 128 bits, lowest word first.
using PhiloxCounter = std::array<std::uint32_t, 4>;
/// The key, which selects one of 2^64 independent random sequences: 64 bits, lowest word first.
using PhiloxKey = std::array<std::uint32_t, 2>;

/// 128 random bits for one (counter, key).
constexpr PhiloxCounter philox4x32(PhiloxCounter counter, PhiloxKey key) noexcept {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = std::uint64_t{0xD2511F53u} * counter[0];
    const std::uint64_t product1 = std::uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<std::uint32_t>(product1),
               static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<std::uint32_t>(product0)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

/// The purpose of a random number. Random sequences for different purposes share no bits, for any
/// steps and indices.
enum class RandomStream : std::uint8_t {
  drop_decision = 0,    ///< one number per branch
  sampling_order = 1,   ///< for samplers that permute the branches
  adapter_dropout = 2,  ///< masks of ops::LoraConfig::dropout
  user = 128  ///< this value and all above it are free for trainers (data order, dropout, ...)
};

/// The random sequence of one micro-step: a pure function of (seed, purpose, step, micro-step,
/// index).
class CounterRandom {
 public:
  /// `stream` is the purpose. `micro_step` counts from 0 and has 24 bits.
  constexpr CounterRandom(std::uint64_t seed, RandomStream stream, std::uint64_t step,
                          std::uint32_t micro_step = 0) noexcept
      : key_{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)},
        counter_{0, (static_cast<std::uint32_t>(stream) << 24) | (micro_step & 0xFFFFFFu),
                 static_cast<std::uint32_t>(step), static_cast<std::uint32_t>(step >> 32)} {}

  static constexpr std::uint32_t max_micro_step = 0xFFFFFFu;  ///< the largest micro-step: 2^24 - 1

  /// The two 64-bit numbers at indices 2 * `pair` and 2 * `pair` + 1.
  constexpr std::array<std::uint64_t, 2> pair(std::uint32_t pair) const noexcept {
    PhiloxCounter counter = counter_;
    counter[0] = pair;
    const PhiloxCounter bits = philox4x32(counter, key_);
    return {(std::uint64_t{bits[1]} << 32) | bits[0], (std::uint64_t{bits[3]} << 32) | bits[2]};
  }

  /// The 64-bit number at `index`.
  constexpr std::uint64_t operator()(std::uint64_t index) const noexcept {
    return pair(static_cast<std::uint32_t>(index / 2))[index % 2];
  }

 private:
  PhiloxKey key_;
  PhiloxCounter counter_;
};

DROPBP_NAMESPACE_END
