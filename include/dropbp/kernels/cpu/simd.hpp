// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Vectors as wide as the machine's, by the vector extension of g++ and clang++, and exp on them. A
// lane computes the same bits at every position, so results depend neither on how a loop is divided
// nor on the alignment of a buffer.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "dropbp/kernels/index.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops::detail {

#if defined(__AVX512F__)
inline constexpr Index vector_bytes = 64;
#elif defined(__AVX__)
inline constexpr Index vector_bytes = 32;
#else
inline constexpr Index vector_bytes = 16;
#endif

#if defined(__GNUC__)
template <class T>
inline constexpr Index lanes = vector_bytes / static_cast<Index>(sizeof(T));

template <class T, Index count = lanes<T>>
struct vector_of {
  typedef T type __attribute__((vector_size(static_cast<std::size_t>(count) * sizeof(T))));
};
#else  // other compilers: vectors of one lane, correct but slow
template <class T>
inline constexpr Index lanes = 1;

template <class T, Index count = 1>
struct vector_of {
  using type = T;
};
#endif

template <class T>
using Vector = typename vector_of<T>::type;

// Unaligned accesses: a row may start at any address.
template <class T>
Vector<T> load(const T* from) noexcept {
  Vector<T> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
template <class T>
void store(T* to, const Vector<T>& v) noexcept {
  std::memcpy(to, &v, sizeof v);
}
template <class T>
Vector<T> load_some(const T* from, Index count, T other) noexcept {
  Vector<T> v = Vector<T>{} + other;
  std::memcpy(&v, from, static_cast<std::size_t>(count) * sizeof(T));
  return v;
}
template <class T>
void store_some(T* to, const Vector<T>& v, Index count) noexcept {
  std::memcpy(to, &v, static_cast<std::size_t>(count) * sizeof(T));
}

// Calls f(i, n) for consecutive pieces [i, i + n) of `count` elements. n is lanes<T> as a
// compile-time constant; for a shorter piece at the end it is a run-time number.
template <class T, class F>
void for_each_vector(Index count, const F& f) {
  Index i = 0;
  for (; i + lanes<T> <= count; i += lanes<T>) f(i, std::integral_constant<Index, lanes<T>>{});
  if (i < count) f(i, count - i);
}
template <class T>
Vector<T> load_piece(const T* from, std::integral_constant<Index, lanes<T>>, T) noexcept {
  return load(from);
}
template <class T>
Vector<T> load_piece(const T* from, Index count, T other) noexcept {
  return load_some(from, count, other);
}
template <class T>
void store_piece(T* to, const Vector<T>& v, std::integral_constant<Index, lanes<T>>) noexcept {
  store(to, v);
}
template <class T>
void store_piece(T* to, const Vector<T>& v, Index count) noexcept {
  store_some(to, v, count);
}

template <class T>
double sum_of_lanes(const Vector<T>& v) noexcept {
  T lane[lanes<T>];
  std::memcpy(lane, &v, sizeof v);
  double sum = 0;
  for (Index i = 0; i < lanes<T>; ++i) sum += static_cast<double>(lane[i]);
  return sum;
}

template <class T>
T max_of_lanes(const Vector<T>& v) noexcept {
  T lane[lanes<T>];
  std::memcpy(lane, &v, sizeof v);
  T largest = lane[0];
  for (Index i = 1; i < lanes<T>; ++i) largest = lane[i] > largest ? lane[i] : largest;
  return largest;
}

#if defined(__GNUC__)
// exp by Cody-Waite reduction, x = n log 2 + r, with the approximations of Moshier's Cephes
// (expf.c, exp.c): a polynomial for float, a rational function for double. The error is at most 2
// units in the last place. Overflow gives infinity; NaN stays NaN.
template <class T>
Vector<T> exp(Vector<T> x) noexcept {
  constexpr bool single = sizeof(T) == 4;
  using Bits = std::conditional_t<single, std::int32_t, std::int64_t>;
  using Integers = typename vector_of<Bits, lanes<T>>::type;
  using Words = typename vector_of<std::int32_t, lanes<T>>::type;  // doubles convert to 32 bits far
                                                                   // faster than to 64
  using V = Vector<T>;
  const V lowest = V{} + (single ? T(-104) : T(-746)), highest = V{} + (single ? T(89) : T(710));
  x = x < lowest ? lowest : x;
  x = x > highest ? highest : x;
  const V half = x < V{} ? V{} - T(0.5) : V{} + T(0.5);
  const V number = x == x ? x : V{};  // converting NaN to an integer is undefined
  const Words whole = __builtin_convertvector(number * T(1.44269504088896341) + half, Words);
  const V n = __builtin_convertvector(whole, V);
  V r, y;
  if constexpr (single) {
    r = x - n * T(0.693359375);
    r = r - n * T(-2.12194440e-4);
    y = r * T(1.9875691500e-4) + T(1.3981999507e-3);
    y = y * r + T(8.3334519073e-3);
    y = y * r + T(4.1665795894e-2);
    y = y * r + T(1.6666665459e-1);
    y = y * r + T(5.0000001201e-1);
    y = y * (r * r) + r;
    y = y + T(1);
  } else {
    r = x - n * T(6.93145751953125e-1);
    r = r - n * T(1.42860682030941723212e-6);
    const V square = r * r;
    V p = square * T(1.26177193074810590878e-4) + T(3.02994407707441961300e-2);
    p = r * (p * square + T(9.99999999999999999910e-1));
    V q = square * T(3.00198505138664455042e-6) + T(2.52448340349684104192e-3);
    q = q * square + T(2.27265548208155028766e-1);
    q = q * square + T(2.00000000000000000009e0);
    y = T(1) + T(2) * (p / (q - p));
  }
  // 2^n as the product of two factors, because a single factor cannot represent the smallest and
  // largest n.
  constexpr Bits bias = single ? 127 : 1023;
  constexpr Bits mantissa = single ? 23 : 52;
  const Integers exponent = __builtin_convertvector(whole, Integers);
  const Integers first = exponent >> Bits(1), second = exponent - first;
  const Integers first_bits = (first + bias) << mantissa, second_bits = (second + bias) << mantissa;
  V first_factor, second_factor;
  std::memcpy(&first_factor, &first_bits, sizeof(V));
  std::memcpy(&second_factor, &second_bits, sizeof(V));
  return y * first_factor * second_factor;
}
#else
template <class T>
T exp(T x) noexcept {
  return std::exp(x);
}
#endif

// The sum of term(i, piece) over a row of `count` elements. After every 16 vectors the partial sum
// is added to a sum in double, so that rounding errors stay small.
template <class T, class Term>
double row_sum(Index count, const Term& term) noexcept {
  double sum = 0;
  Vector<T> part{};
  Index pending = 0;
  for_each_vector<T>(count, [&](Index i, auto piece) {
    part += term(i, piece);
    if (++pending == 16) sum += sum_of_lanes<T>(part), part = Vector<T>{}, pending = 0;
  });
  return sum + sum_of_lanes<T>(part);
}

}  // namespace ops::detail
DROPBP_NAMESPACE_END
