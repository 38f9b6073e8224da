// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What instrumented sources call. Every mutant is in the program; the environment variable
// DROPBP_MUTANT switches one on. With DROPBP_MUTATION_TRACE=FILE the numbers of the mutants that
// were reached are written to that file at exit. In constant expressions all are off.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <type_traits>

namespace mutation {

inline constexpr unsigned most = 1u << 16;
inline unsigned char reached[most];

struct Run {
  Run() {
    if (const char* number = std::getenv("DROPBP_MUTANT"))
      chosen = std::strtoul(number, nullptr, 10);
  }
  ~Run() {
    const char* name = std::getenv("DROPBP_MUTATION_TRACE");
    if (name == nullptr) return;
    std::FILE* file = std::fopen(name, "w");
    for (unsigned i = 0; file != nullptr && i < most; ++i)
      if (reached[i] != 0) std::fprintf(file, "%u\n", i);
    if (file != nullptr) std::fclose(file);
  }
  unsigned long chosen = most;
};
inline Run run;

inline bool is_chosen(unsigned number) {
  reached[number] = 1;
  return run.chosen == number;
}

constexpr bool on(unsigned number) {
  if (std::is_constant_evaluated()) return false;
  return is_chosen(number);
}

// `a OP b`, or `a OTHER b` in the mutant, where that means something and has the same type.
#define DROPBP_MUTATION_BINARY(name, op, other)                                                   \
  template <class A, class B>                                                                     \
  constexpr auto name(unsigned number, const A& a, const B& b) {                                  \
    if constexpr (requires { requires std::is_same_v<decltype(a op b), decltype(a other b)>; }) { \
      if (on(number)) return a other b;                                                           \
    }                                                                                             \
    return a op b;                                                                                \
  }
DROPBP_MUTATION_BINARY(less, <, <=)
DROPBP_MUTATION_BINARY(less_equal, <=, <)
DROPBP_MUTATION_BINARY(greater, >, >=)
DROPBP_MUTATION_BINARY(greater_equal, >=, >)
DROPBP_MUTATION_BINARY(equal, ==, !=)
DROPBP_MUTATION_BINARY(not_equal, !=, ==)
DROPBP_MUTATION_BINARY(add, +, -)
DROPBP_MUTATION_BINARY(subtract, -, +)
DROPBP_MUTATION_BINARY(multiply, *, +)
DROPBP_MUTATION_BINARY(divide, /, *)
DROPBP_MUTATION_BINARY(modulo, %, +)
DROPBP_MUTATION_BINARY(shift_left, <<, >>)
DROPBP_MUTATION_BINARY(shift_right, >>, <<)
DROPBP_MUTATION_BINARY(bit_and, &, |)
DROPBP_MUTATION_BINARY(bit_or, |, &)
DROPBP_MUTATION_BINARY(bit_xor, ^, &)
#undef DROPBP_MUTATION_BINARY

#define DROPBP_MUTATION_ASSIGNMENT(name, op, other)      \
  template <class A, class B>                            \
  constexpr A& name(unsigned number, A& a, const B& b) { \
    if constexpr (requires { a other b; }) {             \
      if (on(number)) return a other b, a;               \
    }                                                    \
    return a op b, a;                                    \
  }
DROPBP_MUTATION_ASSIGNMENT(add_assign, +=, -=)
DROPBP_MUTATION_ASSIGNMENT(subtract_assign, -=, +=)
DROPBP_MUTATION_ASSIGNMENT(multiply_assign, *=, +=)
DROPBP_MUTATION_ASSIGNMENT(divide_assign, /=, *=)
#undef DROPBP_MUTATION_ASSIGNMENT

/// A constant or an argument.
template <class T>
constexpr T plus_one(unsigned number, const T& value) {
  if constexpr (std::is_arithmetic_v<T> && !std::is_same_v<T, bool>) {
    if (on(number)) return static_cast<T>(value + T{1});
  }
  return value;
}

}  // namespace mutation
