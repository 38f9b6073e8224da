// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Vectors by the vector extension of g++ and clang++, and exp on them. A lane computes the same
// bits at every position, so results depend neither on how a loop is divided nor on the alignment
// of a buffer.
//
// A vector has `n` elements of S, which is float or double. By default n is lanes<S>, what the
// compiler's own instructions hold; with_vectors() (instruction_set.hpp) gives what the machine's
// hold. Rows of BFloat16 are loaded as vectors of float and rounded when stored.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "dropbp/backend/scalar.hpp"
#include "dropbp/kernels/cpu/instruction_set.hpp"
#include "dropbp/kernels/matrix.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops::detail {

#if defined(__GNUC__)
template <class S>
inline constexpr Index lanes = vector_bytes / static_cast<Index>(sizeof(S));

template <class S, Index count = lanes<S>>
struct vector_of {
  typedef S type __attribute__((vector_size(static_cast<std::size_t>(count) * sizeof(S))));
};
#else  // other compilers: vectors of one lane, correct but slow
template <class S>
inline constexpr Index lanes = 1;

template <class S, Index count = 1>
struct vector_of {
  using type = S;
};
#endif

// A vector in a structure. Compilers warn of functions that return bare vectors wider than those of
// their own instructions, even if every call is inlined.
template <class S, Index n = lanes<S>>
struct Vector {
  using Raw = typename vector_of<S, n>::type;
  Raw raw;

  static DROPBP_FORCE_INLINE Vector all(S value) noexcept { return {Raw{} + value}; }

#define DROPBP_VECTOR_OPERATOR(op)                                                           \
  DROPBP_FORCE_INLINE friend Vector operator op(const Vector& a, const Vector& b) noexcept { \
    return {a.raw op b.raw};                                                                 \
  }                                                                                          \
  DROPBP_FORCE_INLINE friend Vector operator op(const Vector& a, S b) noexcept {             \
    return {a.raw op b};                                                                     \
  }                                                                                          \
  DROPBP_FORCE_INLINE friend Vector operator op(S a, const Vector& b) noexcept {             \
    return {a op b.raw};                                                                     \
  }
  DROPBP_VECTOR_OPERATOR(+)
  DROPBP_VECTOR_OPERATOR(-)
  DROPBP_VECTOR_OPERATOR(*)
  DROPBP_VECTOR_OPERATOR(/)
#undef DROPBP_VECTOR_OPERATOR
  DROPBP_FORCE_INLINE friend Vector operator-(const Vector& a) noexcept { return {-a.raw}; }
  DROPBP_FORCE_INLINE Vector& operator+=(const Vector& b) noexcept {
    raw += b.raw;
    return *this;
  }
};

template <class S, Index n>
DROPBP_FORCE_INLINE inline Vector<S, n> larger(const Vector<S, n>& a,
                                               const Vector<S, n>& b) noexcept {
  return {a.raw > b.raw ? a.raw : b.raw};
}

// The same value, rounded: g++ may not fuse the product that it comes from with the next sum.
// (clang++ fuses only within an expression.)
template <class S, Index n>
DROPBP_FORCE_INLINE inline Vector<S, n> rounded(const Vector<S, n>& value) noexcept {
  Vector<S, n> v = value;
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__)
  __asm__("" : "+x"(v.raw));
#endif
  return v;
}

// The same for one float.
DROPBP_FORCE_INLINE inline float rounded(float value) noexcept {
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__)
  __asm__("" : "+x"(value));
#elif defined(__GNUC__) && !defined(__clang__) && defined(__aarch64__)
  __asm__("" : "+w"(value));
#endif
  return value;
}

// A piece of a row: a whole vector, or the `count` < n elements at its end.
template <Index n>
using Whole = std::integral_constant<Index, n>;
template <Index n>
struct Part {
  Index count;
};

// One element as the type that it is computed in, and back.
template <HostScalar T>
DROPBP_FORCE_INLINE inline Statistic<T> real(T x) noexcept {
  if constexpr (std::is_same_v<T, BFloat16>)
    return to_float(x);
  else
    return x;
}
template <HostScalar T>
DROPBP_FORCE_INLINE inline T rounded(Statistic<T> x) noexcept {
  if constexpr (std::is_same_v<T, BFloat16>)
    return from_float<T>(x);
  else
    return x;
}

#if defined(__GNUC__)
template <Index n>
DROPBP_FORCE_INLINE inline Vector<float, n> widened(const BFloat16* from) noexcept {
  using Bits = typename vector_of<std::uint32_t, n>::type;
  typename vector_of<std::uint16_t, n>::type halves;
  std::memcpy(&halves, from, sizeof halves);
  const Bits bits = __builtin_convertvector(halves, Bits) << 16;
  Vector<float, n> v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}
// As from_float<BFloat16>.
template <Index n>
DROPBP_FORCE_INLINE inline void narrow(BFloat16* to, const Vector<float, n>& v) noexcept {
  using Bits = typename vector_of<std::uint32_t, n>::type;
  using Halves = typename vector_of<std::uint16_t, n>::type;
  Bits bits;
  std::memcpy(&bits, &v, sizeof v);
  const Bits rounded = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
  const Bits nan = Bits{} + 0x7FFFu;
  const Halves halves =
      __builtin_convertvector((bits & 0x7FFFFFFFu) > 0x7F800000u ? nan : rounded, Halves);
  std::memcpy(to, &halves, sizeof halves);
}
#else
template <Index n>
Vector<float, n> widened(const BFloat16* from) noexcept {
  return {to_float(*from)};
}
template <Index n>
void narrow(BFloat16* to, const Vector<float, n>& v) noexcept {
  *to = from_float<BFloat16>(v.raw);
}
#endif

// Unaligned accesses: a row may start at any address.
template <Index n, class T>
DROPBP_FORCE_INLINE inline Vector<Statistic<T>, n> load(const T* from) noexcept {
  if constexpr (std::is_same_v<T, BFloat16>) {
    return widened<n>(from);
  } else {
    Vector<T, n> v;
    std::memcpy(&v, from, sizeof v);
    return v;
  }
}
template <Index n, class T>
DROPBP_FORCE_INLINE inline void store(T* to, const Vector<Statistic<T>, n>& v) noexcept {
  if constexpr (std::is_same_v<T, BFloat16>)
    narrow<n>(to, v);
  else
    std::memcpy(to, &v, sizeof v);
}

// Calls f(i, piece) for consecutive pieces of `count` elements; a piece begins at element i.
template <Index n, class F>
DROPBP_FORCE_INLINE inline void for_each_piece(Index count, const F& f) {
  Index i = 0;
  for (; i + n <= count; i += n) f(i, Whole<n>{});
  if (i < count) f(i, Part<n>{count - i});
}
template <class T, class F>
DROPBP_FORCE_INLINE inline void for_each_vector(Index count, const F& f) {
  for_each_piece<lanes<T>>(count, f);
}

// The elements of a piece; `other` fills the lanes behind its end.
template <class T, Index n>
DROPBP_FORCE_INLINE inline Vector<Statistic<T>, n> load_piece(const T* from, Whole<n>,
                                                              Statistic<T>) noexcept {
  return load<n>(from);
}
template <class T, Index n>
DROPBP_FORCE_INLINE inline Vector<Statistic<T>, n> load_piece(const T* from, Part<n> piece,
                                                              Statistic<T> other) noexcept {
  Statistic<T> lane[static_cast<std::size_t>(n)];
  for (Index i = 0; i < n; ++i) lane[i] = other;
  for (Index i = 0; i < piece.count; ++i) lane[i] = real(from[i]);
  return load<n>(lane);
}
template <class T, Index n>
DROPBP_FORCE_INLINE inline void store_piece(T* to, const Vector<Statistic<T>, n>& v,
                                            Whole<n>) noexcept {
  store<n>(to, v);
}
template <class T, Index n>
DROPBP_FORCE_INLINE inline void store_piece(T* to, const Vector<Statistic<T>, n>& v,
                                            Part<n> piece) noexcept {
  T lane[static_cast<std::size_t>(n)];
  store<n>(lane, v);
  std::memcpy(to, lane, static_cast<std::size_t>(piece.count) * sizeof(T));
}

template <class S, Index n = lanes<S>>
DROPBP_FORCE_INLINE inline double sum_of_lanes(const Vector<S, n>& v) noexcept {
  S lane[static_cast<std::size_t>(n)];
  std::memcpy(lane, &v, sizeof v);
  double sum = 0;
  for (Index i = 0; i < n; ++i) sum += static_cast<double>(lane[i]);
  return sum;
}

template <class S, Index n = lanes<S>>
DROPBP_FORCE_INLINE inline S max_of_lanes(const Vector<S, n>& v) noexcept {
  S lane[static_cast<std::size_t>(n)];
  std::memcpy(lane, &v, sizeof v);
  S largest = lane[0];
  for (Index i = 1; i < n; ++i) largest = lane[i] > largest ? lane[i] : largest;
  return largest;
}

#if defined(__GNUC__)
// exp by Cody-Waite reduction, x = n log 2 + r, with the approximations of Moshier's Cephes
// (expf.c, exp.c): a polynomial for float, a rational function for double. The error is at most 2
// units in the last place. Overflow gives infinity; NaN stays NaN.
template <class T, Index lanes_of_x>
DROPBP_FORCE_INLINE inline Vector<T, lanes_of_x> exp(const Vector<T, lanes_of_x>& of) noexcept {
  constexpr bool single = sizeof(T) == 4;
  using Bits = std::conditional_t<single, std::int32_t, std::int64_t>;
  using Integers = typename vector_of<Bits, lanes_of_x>::type;
  // Doubles convert to 32 bits far faster than to 64.
  using Words = typename vector_of<std::int32_t, lanes_of_x>::type;
  using V = typename Vector<T, lanes_of_x>::Raw;
  V x = of.raw;
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
  return {y * first_factor * second_factor};
}
#else
template <class T, Index n>
Vector<T, n> exp(const Vector<T, n>& of) noexcept {
  return {std::exp(of.raw)};
}
#endif

// Square roots, correctly rounded. The compiler keeps std::sqrt scalar for the sake of errno.
template <class S, Index n>
DROPBP_FORCE_INLINE inline Vector<S, n> root(const Vector<S, n>& x) noexcept {
#if defined(__has_builtin)
#if __has_builtin(__builtin_elementwise_sqrt)
#define DROPBP_ELEMENTWISE_SQRT
#endif
#endif
#if defined(DROPBP_ELEMENTWISE_SQRT)
#undef DROPBP_ELEMENTWISE_SQRT
  return {__builtin_elementwise_sqrt(x.raw)};
#else
#if defined(DROPBP_X86_VECTORS) && !defined(__clang__)
  constexpr bool narrow_vector = sizeof(x.raw) == 16;
  Vector<S, n> y;
  if constexpr (sizeof(S) == 4 && narrow_vector)
    asm("sqrtps %1, %0" : "=x"(y.raw) : "x"(x.raw));
  else if constexpr (sizeof(S) == 4)
    asm("vsqrtps %1, %0" : "=v"(y.raw) : "v"(x.raw));
  else if constexpr (narrow_vector)
    asm("sqrtpd %1, %0" : "=x"(y.raw) : "x"(x.raw));
  else
    asm("vsqrtpd %1, %0" : "=v"(y.raw) : "v"(x.raw));
  return y;
#else
  S lane[static_cast<std::size_t>(n)];
  std::memcpy(lane, &x, sizeof x);
  for (S& value : lane) value = std::sqrt(value);
  return load<n>(lane);
#endif
#endif
}

// The sum of term(i, piece) over a row of `count` elements. After every 16 vectors the partial sum
// is added to a sum in double, so that rounding errors stay small.
template <class S, Index n = lanes<S>, class Term>
DROPBP_FORCE_INLINE inline double row_sum(Index count, const Term& term) noexcept {
  double sum = 0;
  Vector<S, n> part{};
  Index pending = 0;
  for_each_piece<n>(count, [&](Index i, auto piece) DROPBP_FORCE_INLINE {
    part += term(i, piece);
    if (++pending == 16) sum += sum_of_lanes<S, n>(part), part = Vector<S, n>{}, pending = 0;
  });
  return sum + sum_of_lanes<S, n>(part);
}

}  // namespace ops::detail
DROPBP_NAMESPACE_END
