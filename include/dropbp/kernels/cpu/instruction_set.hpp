// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The vector instructions of the processor that runs the program. Loops are compiled for several
// sets of instructions, so one binary is fast on every machine.
//
// with_vectors() shows how: the loop is a lambda or a template, forced inline into a function that
// is compiled for one set. Whatever it calls must be forced inline too; else it is compiled for the
// program's own set, which is correct but slow.
#pragma once

#include <atomic>
#include <type_traits>

#include "dropbp/base/config.hpp"
#include "dropbp/kernels/index.hpp"

#if defined(__GNUC__)
#define DROPBP_FORCE_INLINE __attribute__((always_inline))
#else
#define DROPBP_FORCE_INLINE
#endif
#if defined(__GNUC__) && defined(__x86_64__)
#define DROPBP_X86_VECTORS
#endif

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// Sets of vector instructions. Each x86-64 set includes the ones before it.
enum class InstructionSet {
  compiled,     ///< what the compiler may use everywhere (its option -march)
  avx2,         ///< AVX2 and FMA: x86-64-v3
  avx512,       ///< AVX-512 F, BW, DQ and VL: x86-64-v4
  avx512_bf16,  ///< and AVX512_BF16: dot products of bfloat16
};

namespace detail {

// What the compiler may use everywhere.
#if defined(__AVX512F__)
inline constexpr Index vector_bytes = 64;
#elif defined(__AVX__)
inline constexpr Index vector_bytes = 32;
#else
inline constexpr Index vector_bytes = 16;
#endif

inline InstructionSet machine_instruction_set() noexcept {
#if defined(DROPBP_X86_VECTORS)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
    return InstructionSet::compiled;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
    return InstructionSet::avx2;
  return __builtin_cpu_supports("avx512bf16") ? InstructionSet::avx512_bf16
                                              : InstructionSet::avx512;
#else
  return InstructionSet::compiled;
#endif
}

inline std::atomic<InstructionSet>& chosen_instruction_set() noexcept {
  static std::atomic<InstructionSet> set{machine_instruction_set()};
  return set;
}

}  // namespace detail

/// The instructions that all later calls use: the machine's best, unless limited.
inline InstructionSet instruction_set() noexcept {
  return detail::chosen_instruction_set().load(std::memory_order_relaxed);
}

/// From now on uses at most the instructions of `most`, and none that the machine lacks. The last
/// bits of results depend on the set: limit it to have the same bits on different machines.
inline void limit_instruction_set(InstructionSet most) noexcept {
  const InstructionSet best = detail::machine_instruction_set();
  detail::chosen_instruction_set().store(most < best ? most : best, std::memory_order_relaxed);
}

namespace detail {

// Each of these types runs a function object, which must be forced inline, compiled for one set.
struct Compiled {
  static constexpr Index bytes = vector_bytes;               ///< of a vector
  static constexpr Index registers = bytes == 64 ? 32 : 16;  ///< for vectors
  template <class F>
  static void run(const F& f) {
    f();
  }
};
#if defined(DROPBP_X86_VECTORS)
struct Avx2 {
  static constexpr Index bytes = 32, registers = 16;
  template <class F>
  __attribute__((target("avx2,fma"))) static void run(const F& f) {
    f();
  }
};
struct Avx512 {
  static constexpr Index bytes = 64, registers = 32;
  template <class F>
  __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl"))) static void run(
      const F& f) {
    f();
  }
};
#endif

// Calls f(one of the types above) for the set in use. Sets that the compiler uses everywhere are
// Compiled.
template <class F>
void with_instructions(const F& f) {
#if defined(DROPBP_X86_VECTORS)
  if constexpr (vector_bytes < 64)
    if (instruction_set() >= InstructionSet::avx512) return f(Avx512{});
#if !defined(__AVX2__) || !defined(__FMA__)
  if (instruction_set() >= InstructionSet::avx2) return f(Avx2{});
#endif
#endif
  f(Compiled{});
}

// Calls f(n), where n is the compile-time number of T in a vector, compiled for the set in use. f
// must be forced inline: [&](auto n) DROPBP_FORCE_INLINE { ... }
template <class T, class F>
void with_vectors(const F& f) {
#if defined(__GNUC__)
  with_instructions([&](auto set) {
    using Set = decltype(set);
    constexpr std::integral_constant<Index, Set::bytes / static_cast<Index>(sizeof(T))> n;
    Set::run([&]() DROPBP_FORCE_INLINE { f(n); });
  });
#else
  f(std::integral_constant<Index, 1>{});
#endif
}

}  // namespace detail
}  // namespace ops
DROPBP_NAMESPACE_END
