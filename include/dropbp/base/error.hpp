// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Error messages in three parts: what is required, what was given, what to do. They are thrown, or
// with -fno-exceptions given to a handler.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <utility>

#include "dropbp/base/config.hpp"

#if !DROPBP_EXCEPTIONS
#include <atomic>
#include <cstdlib>
#endif
#if !defined(__GNUC__)
#include <cmath>
#endif

#include "dropbp/base/real_bits.hpp"

DROPBP_NAMESPACE_BEGIN

#if !DROPBP_EXCEPTIONS
/// What an error is about, without exceptions.
enum class ErrorKind : std::uint8_t {
  argument,  ///< std::invalid_argument with exceptions
  order,     ///< std::logic_error with exceptions: calls in the wrong order
  outside,   ///< std::runtime_error with exceptions: for example a gradient that is not finite
};

/// Called for every error with its sentence, which is valid during the call. If it returns, the
/// program aborts, because the library cannot go on; it may end the program or, where no destructor
/// is skipped, leave by longjmp.
using ErrorHandler = void (*)(ErrorKind kind, const char* sentence);

namespace detail {
inline void print_error(ErrorKind, const char* sentence) { std::fprintf(stderr, "%s\n", sentence); }
inline std::atomic<ErrorHandler> error_handler{print_error};
}  // namespace detail

/// Sets the handler of errors, for all threads; null: the default, which prints the sentence to the
/// standard error. Returns the one before. Exists only without exceptions.
inline ErrorHandler set_error_handler(ErrorHandler handler) noexcept {
  return detail::error_handler.exchange(handler != nullptr ? handler : detail::print_error);
}
#endif

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

/// Rounds a value to a 64-bit double. The compiler cannot keep extra bits of it (x87), fuse its
/// computation with the next operation, or regroup the operations around it (-ffast-math). Every
/// number that decides a plan goes through this function, so that all builds make the same plan. A
/// divisor that is used more than once goes through it too: -ffast-math would replace it by its
/// reciprocal.
inline double rounded(double value) noexcept {
#if defined(__GNUC__) && defined(__SSE2_MATH__) && !defined(__CUDA_ARCH__)
  // To the compiler, the asm statement returns an unknown number in the same register. It is
  // volatile, so that each iteration of a loop has a new unknown number. Otherwise clang++ with
  // -ffast-math computes the reciprocal of a loop's divisor once and multiplies by it.
  __asm__ volatile("" : "+x"(value));
  return value;
#else
  const volatile double stored = value;
  return stored;
#endif
}

/// The largest whole number <= value, for value >= 0. Doubles from 2^63 on are whole numbers.
inline double floor(double value) noexcept {
  return value < 0x1p63 ? static_cast<double>(static_cast<std::uint64_t>(value)) : value;
}

inline std::string sentence(const std::string& required, const std::string& given,
                            const std::string& remedy) {
  return "dropbp: " + required + ", but " + given + ": " + remedy;
}

#if DROPBP_EXCEPTIONS
/// Throws std::invalid_argument: the caller passed an argument that it can correct.
[[noreturn]] inline void throw_invalid(const std::string& required, const std::string& given,
                                       const std::string& remedy) {
  throw std::invalid_argument(sentence(required, given, remedy));
}

/// Throws std::logic_error: the caller made calls in the wrong order.
[[noreturn]] inline void throw_order(const std::string& required, const std::string& given,
                                     const std::string& remedy) {
  throw std::logic_error(sentence(required, given, remedy));
}

/// Throws std::runtime_error: something outside the library is wrong.
[[noreturn]] inline void throw_outside(const std::string& required, const std::string& given,
                                       const std::string& remedy) {
  throw std::runtime_error(sentence(required, given, remedy));
}

/// Calls `call`. If it throws, calls `undo`, and throws on.
template <class Call, class Undo>
void call_or_undo(Call&& call, Undo&& undo) {
  try {
    std::forward<Call>(call)();
  } catch (...) {
    std::forward<Undo>(undo)();
    throw;
  }
}

/// Calls `call` and ignores what it throws.
template <class Call>
void call_quietly(Call&& call) noexcept {
  try {
    std::forward<Call>(call)();
  } catch (...) {
  }
}
#else
[[noreturn]] inline void end_by_error(ErrorKind kind, const std::string& text) {
  error_handler.load()(kind, text.c_str());
  std::abort();
}
[[noreturn]] inline void throw_invalid(const std::string& required, const std::string& given,
                                       const std::string& remedy) {
  end_by_error(ErrorKind::argument, sentence(required, given, remedy));
}
[[noreturn]] inline void throw_order(const std::string& required, const std::string& given,
                                     const std::string& remedy) {
  end_by_error(ErrorKind::order, sentence(required, given, remedy));
}
[[noreturn]] inline void throw_outside(const std::string& required, const std::string& given,
                                       const std::string& remedy) {
  end_by_error(ErrorKind::outside, sentence(required, given, remedy));
}
template <class Call, class Undo>
void call_or_undo(Call&& call, Undo&&) {
  std::forward<Call>(call)();
}
template <class Call>
void call_quietly(Call&& call) noexcept {
  std::forward<Call>(call)();
}
#endif

inline double square_root(double x) noexcept {
#if defined(__GNUC__)
  return __builtin_sqrt(
      x);  // std::sqrt needs <cmath>, which every user of this header would compile
#else
  return std::sqrt(x);
#endif
}

/// Throws std::invalid_argument unless `rate` is a probability. `whose` names the rate in the
/// message.
inline void require_rate(double rate, const std::string& whose) {
  if (!is_finite(rate) || rate < 0.0 || rate > 1.0)
    throw_invalid(whose + " must lie in [0, 1]", "it is " + text(rate),
                  "pass the probability of dropping a branch");
}

// Throws std::invalid_argument unless `given` equals `branches`. `what` is a string literal,
// because a std::string would allocate memory in every step.
inline void require_count(std::size_t given, std::size_t branches, const char* what) {
  if (given != branches)
    throw_invalid(
        std::string("one ") + what + " per branch is required (" + text(branches) + " branches)",
        text(given) + " were given", "pass them in the order in which the model visits its layers");
}

}  // namespace detail
DROPBP_NAMESPACE_END
