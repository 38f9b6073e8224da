// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Detects that ranks disagree about what must be equal on all of them.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "dropbp/base/error.hpp"
#include "dropbp/interop/communicator.hpp"

DROPBP_NAMESPACE_BEGIN

/// Ranks disagree. Every rank throws it, and has written its text to the standard error before.
struct RanksDisagree : std::runtime_error {
  using std::runtime_error::runtime_error;
};

namespace detail {

/// A value that all ranks must have, and what to do where they do not.
struct AgreedField {
  const char* name;
  std::uint64_t value;
  const char* remedy;
  bool is_real = false;  // `value` has the bits of a double
};

// A value is summed as its bytes and their squares, for n ranks: all are equal if and only if
// n * (sum of squares) equals (sum)^2, and every rank sees that. The sums are whole numbers below
// 2^53 for up to 2^18 ranks, so a double holds them exactly.
inline constexpr std::size_t sums_of_field = 16;

inline void append_field(std::vector<double>& sums, std::uint64_t value) {
  for (int shift = 0; shift < 64; shift += 8) {
    const auto byte = static_cast<double>((value >> shift) & 0xFF);
    sums.push_back(byte);
    sums.push_back(byte * byte);
  }
}

inline bool agrees(std::span<const double> sums, int ranks) {
  for (std::size_t i = 0; i < sums_of_field; i += 2)
    if (ranks * sums[i + 1] != sums[i] * sums[i]) return false;
  return true;
}

inline std::string text_of(const AgreedField& field, std::uint64_t value) {
  if (field.is_real) return text(std::bit_cast<double>(value));
  char buffer[24];
  std::snprintf(buffer, sizeof buffer, "0x%016llX", static_cast<unsigned long long>(value));
  return buffer;
}

// Writes the sentence on every rank, waits until all ranks have, and throws. Where another rank is
// in another collective, its value does not arrive.
template <Communicator C>
[[noreturn]] void throw_disagreement(C& communicator, std::uint64_t step,
                                     const AgreedField& field) {
  std::array<double, 4> own{};  // exact in a double: 16 bits each
  for (std::size_t i = 0; i < own.size(); ++i)
    own[i] = static_cast<double>((field.value >> (16 * i)) & 0xFFFF);
  const std::vector<double> all = gathered(communicator, std::span<const double>(own));
  std::string others;
  for (std::size_t rank = 0; rank < all.size() / own.size(); ++rank) {
    std::uint64_t value = 0;
    bool arrived = true;
    for (std::size_t i = 0; i < own.size(); ++i) {
      const double part = all[rank * own.size() + i];
      arrived = arrived && part >= 0.0 && part < 65536.0;
      if (arrived) value |= static_cast<std::uint64_t>(part) << (16 * i);
    }
    if (!arrived || value == field.value) continue;
    others = " and " + text_of(field, value) + " on rank " + text(rank);
    break;
  }
  const std::string sentence_of_rank =
      sentence("all ranks must have " + std::string(field.name),
               "in step " + text(step) + " it is " + text_of(field, field.value) + " on rank " +
                   text(static_cast<std::uint64_t>(communicator.rank())) + others,
               field.remedy);
  std::fputs((sentence_of_rank + "\n").c_str(), stderr);
  std::fflush(stderr);
  double token = 0.0;
  typename C::Request request = communicator.all_reduce(std::span<double>(&token, 1));
  communicator.wait(request);
  throw RanksDisagree(sentence_of_rank);
}

}  // namespace detail

/// Throws RanksDisagree on every rank unless `value` is the same on all. `name` and `remedy` end up
/// in the sentence: "the same data", say, and what to do. Waits for all ranks; in a step,
/// GradientReducer checks without a further message.
template <Communicator C>
void require_agreement(C& communicator, const char* name, std::uint64_t value, std::uint64_t step,
                       const char* remedy) {
  std::vector<double> sums;
  detail::append_field(sums, value);
  typename C::Request request = communicator.all_reduce(detail::view(sums));
  communicator.wait(request);
  if (!detail::agrees(sums, communicator.size()))
    detail::throw_disagreement(communicator, step, {name, value, remedy});
}

DROPBP_NAMESPACE_END
