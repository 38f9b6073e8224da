// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Errors in three parts: what is required, what was given, what to do about it.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>

#if !defined(__GNUC__)
#include <cmath>
#endif

#include "dropbp/base/config.hpp"
#include "dropbp/base/real_bits.hpp"

DROPBP_NAMESPACE_BEGIN
namespace detail {

inline std::string text(double value) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.9g", value);
  return buffer;
}
template <std::unsigned_integral Count>
std::string text(Count value) {
  return std::to_string(value);
}

/// The value as a 64-bit double: not held in more bits (x87), not fused with the next operation,
/// not regrouped with others
/// (-ffast-math). What decides a plan must be the same number in every build. A divisor that serves
/// twice is rounded as well: it would be inverted.
inline double rounded(double value) noexcept {
#if defined(__GNUC__) && defined(__SSE2_MATH__) && !defined(__CUDA_ARCH__)
  // The compiler sees another value of unknown origin, and leaves it in its register. Volatile, so
  // that it sees another one in every turn of a loop: clang++ would divide by it only once, and
  // multiply by the reciprocal (-ffast-math).
  __asm__ volatile("" : "+x"(value));
  return value;
#else
  const volatile double stored = value;
  return stored;
#endif
}

/// The largest whole number up to a value in [0, 2^63); values beyond are whole as they are.
inline double floor(double value) noexcept {
  return value < 0x1p63 ? static_cast<double>(static_cast<std::uint64_t>(value)) : value;
}

inline std::string sentence(const std::string& required, const std::string& given,
                            const std::string& remedy) {
  return "dropbp: " + required + ", but " + given + ": " + remedy;
}

/// An argument the caller can correct.
[[noreturn]] inline void throw_invalid(const std::string& required, const std::string& given,
                                       const std::string& remedy) {
  throw std::invalid_argument(sentence(required, given, remedy));
}

/// A call in the wrong order.
[[noreturn]] inline void throw_order(const std::string& required, const std::string& given,
                                     const std::string& remedy) {
  throw std::logic_error(sentence(required, given, remedy));
}

inline double square_root(double x) noexcept {
#if defined(__GNUC__)
  return __builtin_sqrt(
      x);  // <cmath> would cost every user of the header more than it is worth here
#else
  return std::sqrt(x);
#endif
}

/// Throws unless `rate` is a probability. `whose` names it in the message.
inline void require_rate(double rate, const std::string& whose) {
  if (!is_finite(rate) || rate < 0.0 || rate > 1.0)
    throw_invalid(whose + " must lie in [0, 1]", "it is " + text(rate),
                  "pass the probability of dropping a branch");
}

// `what` is a literal: a std::string would be made, on the heap, in every step.
inline void require_count(std::size_t given, std::size_t branches, const char* what) {
  if (given != branches)
    throw_invalid(
        std::string("one ") + what + " per branch is required (" + text(branches) + " branches)",
        text(given) + " were given", "pass them in the order in which the model visits its layers");
}

}  // namespace detail
DROPBP_NAMESPACE_END
