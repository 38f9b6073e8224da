// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Operands of an instruction as arrays over the lanes, and the handlers that apply a function of
// one lane's operands to all of them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "cuda/ptx/machine.hpp"

namespace ptx {

template <class T>
using Lanes = std::array<T, 32>;

template <class T>
Lanes<T> get(const Warp& warp, std::uint32_t at) {
  Lanes<T> values;
  std::memcpy(values.data(), warp.registers.data() + at, sizeof values);
  return values;
}

template <class T>
void put(Warp& warp, std::uint32_t at, const Lanes<T>& values, std::uint32_t lanes) {
  std::byte* const to = warp.registers.data() + at;
  if (lanes == all_lanes) {
    std::memcpy(to, values.data(), sizeof values);
    return;
  }
  for (unsigned lane = 0; lane < 32; ++lane)
    if (lanes >> lane & 1) std::memcpy(to + lane * sizeof(T), &values[lane], sizeof(T));
}

inline std::uint32_t get_predicate(const Warp& warp, std::uint32_t at) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, warp.registers.data() + at, sizeof bits);
  return bits;
}

inline void put_predicate(Warp& warp, std::uint32_t at, std::uint32_t bits, std::uint32_t lanes) {
  bits = (bits & lanes) | (get_predicate(warp, at) & ~lanes);
  std::memcpy(warp.registers.data() + at, &bits, sizeof bits);
}

template <class T>
inline constexpr auto size_of = static_cast<std::uint8_t>(sizeof(T));

/// R = f(A...) in each lane.
template <auto f, class R, class... A>
void apply(Warp& warp, const Instruction& instruction, std::uint32_t lanes) {
  const auto run = [&]<std::size_t... i>(std::index_sequence<i...>) {
    const std::tuple<Lanes<A>...> operands{get<A>(warp, instruction.at[1 + i])...};
    Lanes<R> results;
    for (unsigned lane = 0; lane < 32; ++lane) results[lane] = f(std::get<i>(operands)[lane]...);
    put(warp, instruction.at[0], results, lanes);
  };
  run(std::index_sequence_for<A...>());
}

/// The predicate f(a, b).
template <auto f, class T>
void compared(Warp& warp, const Instruction& instruction, std::uint32_t lanes) {
  const auto a = get<T>(warp, instruction.at[1]), b = get<T>(warp, instruction.at[2]);
  std::uint32_t bits = 0;
  for (unsigned lane = 0; lane < 32; ++lane) bits |= std::uint32_t{f(a[lane], b[lane])} << lane;
  put_predicate(warp, instruction.at[0], bits, lanes);
}

/// a or b, as the predicate says.
template <class T>
void selected(Warp& warp, const Instruction& instruction, std::uint32_t lanes) {
  auto a = get<T>(warp, instruction.at[1]);
  const auto b = get<T>(warp, instruction.at[2]);
  const std::uint32_t bits = get_predicate(warp, instruction.at[3]);
  for (unsigned lane = 0; lane < 32; ++lane) a[lane] = bits >> lane & 1 ? a[lane] : b[lane];
  put(warp, instruction.at[0], a, lanes);
}

template <auto f>
void logic(Warp& warp, const Instruction& instruction, std::uint32_t lanes) {
  put_predicate(warp, instruction.at[0],
                f(get_predicate(warp, instruction.at[1]), get_predicate(warp, instruction.at[2])),
                lanes);
}

/// The quotient, or the remainder. By 0 its value is unspecified, which must not happen.
template <class T, bool remainder>
void divided(Warp& warp, const Instruction& instruction, std::uint32_t lanes) {
  using U = std::make_unsigned_t<T>;
  auto a = get<T>(warp, instruction.at[1]);
  const auto b = get<T>(warp, instruction.at[2]);
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (!(lanes >> lane & 1)) continue;
    if (b[lane] == 0) throw std::runtime_error("a division by 0");
    if (std::is_signed_v<T> && b[lane] == static_cast<T>(-1))
      a[lane] = remainder ? T{0} : static_cast<T>(U{0} - static_cast<U>(a[lane]));
    else
      a[lane] = static_cast<T>(remainder ? a[lane] % b[lane] : a[lane] / b[lane]);
  }
  put(warp, instruction.at[0], a, lanes);
}

/// Parts to a whole, the lowest bits first.
template <class Whole, class Part, std::size_t count>
void joined(Warp& warp, const Instruction& instruction, std::uint32_t lanes) {
  Lanes<Whole> whole{};
  for (std::size_t i = 0; i < count; ++i) {
    const auto part = get<Part>(warp, instruction.at[1 + i]);
    for (unsigned lane = 0; lane < 32; ++lane)
      whole[lane] |= static_cast<Whole>(Whole{part[lane]} << (i * sizeof(Part) * 8));
  }
  put(warp, instruction.at[0], whole, lanes);
}

/// A whole to its parts.
template <class Whole, class Part, std::size_t count>
void split_up(Warp& warp, const Instruction& instruction, std::uint32_t lanes) {
  const auto whole = get<Whole>(warp, instruction.at[count]);
  for (std::size_t i = 0; i < count; ++i) {
    Lanes<Part> part;
    for (unsigned lane = 0; lane < 32; ++lane)
      part[lane] = static_cast<Part>(whole[lane] >> (i * sizeof(Part) * 8));
    put(warp, instruction.at[i], part, lanes);
  }
}

/// Shuffles, matrix products, copies and barriers (warp_operations.cpp).
void add_warp_operations(std::map<std::string, Operation, std::less<>>& table);

}  // namespace ptx
