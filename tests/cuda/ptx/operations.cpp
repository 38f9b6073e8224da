// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Arithmetic and conversions. A result of more than one allowed value (an approximation) takes the
// worst one or nearly so.
#include <bit>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <type_traits>

#include "cuda/ptx/machine.hpp"
#include "cuda/ptx/operand.hpp"
#include "cuda/ptx/real.hpp"

namespace ptx {
namespace {

using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using s16 = std::int16_t;
using s32 = std::int32_t;
using s64 = std::int64_t;

template <class T>
inline constexpr const char* name_of = "";
template <>
inline constexpr const char* name_of<u16> = "u16";
template <>
inline constexpr const char* name_of<u32> = "u32";
template <>
inline constexpr const char* name_of<u64> = "u64";
template <>
inline constexpr const char* name_of<s16> = "s16";
template <>
inline constexpr const char* name_of<s32> = "s32";
template <>
inline constexpr const char* name_of<s64> = "s64";

template <class T>
std::string bits_of() {
  return std::to_string(sizeof(T) * 8);
}

using Table = std::map<std::string, Operation, std::less<>>;

template <auto f, class R, class... A>
void add(Table& table, const std::string& name) {
  table[name] = {&apply<f, R, A...>, Flow::next, {size_of<R>, size_of<A>...}};
}

// Integer arithmetic wraps around.
template <class T>
void add_integer(Table& table) {
  using U = std::make_unsigned_t<T>;
  const std::string type = std::string(".") + name_of<T>;
  constexpr auto low = [](U a, U b) { return static_cast<U>(u64{a} * u64{b}); };
  add<[](U a, U b) { return static_cast<U>(a + b); }, U, U, U>(table, "add" + type);
  add<[](U a, U b) { return static_cast<U>(a - b); }, U, U, U>(table, "sub" + type);
  add<low, U, U, U>(table, "mul.lo" + type);
  add<[](U a, U b, U c) { return static_cast<U>(u64{a} * u64{b} + u64{c}); }, U, U, U, U>(
      table, "mad.lo" + type);
  add<[](T a, T b) { return a < b ? a : b; }, T, T, T>(table, "min" + type);
  add<[](T a, T b) { return b < a ? a : b; }, T, T, T>(table, "max" + type);
  add<[](U a, u32 b) {
    return b >= sizeof(T) * 8
               ? (std::is_signed_v<T> && static_cast<T>(a) < 0 ? static_cast<U>(~U{0}) : U{0})
               : static_cast<U>(static_cast<T>(a) >> b);
  },
      U, U, u32>(table, "shr" + type);
  if constexpr (std::is_same_v<T, u32>)
    add<[](u32 a, u32 position, u32 length) {
      position &= 0xFFu, length &= 0xFFu;
      const u64 mask = length >= 64 ? ~u64{0} : (u64{1} << length) - 1;
      return position >= 32 ? u32{0} : static_cast<u32>((u64{a} >> position) & mask);
    },
        u32, u32, u32, u32>(table, "bfe.u32");
  const auto divide = [&](const std::string& name, Handler handler) {
    table[name + type] = {handler, Flow::next, {sizeof(T), sizeof(T), sizeof(T)}};
  };
  divide("div", &divided<T, false>);
  divide("rem", &divided<T, true>);
  if constexpr (std::is_signed_v<T>)
    add<[](U a) { return static_cast<U>(0 - a); }, U, U>(table, "neg" + type);
  if constexpr (sizeof(T) <= 4) {
    using W = std::conditional_t<sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, s32, u32>,
                                 std::conditional_t<std::is_signed_v<T>, s64, u64>>;
    add<[](T a, T b) { return static_cast<W>(W{a} * W{b}); }, W, T, T>(table, "mul.wide" + type);
    add<[](T a, T b) { return static_cast<T>((W{a} * W{b}) >> (sizeof(T) * 8)); }, T, T, T>(
        table, "mul.hi" + type);
    add<[](T a, T b, W c) {
      return static_cast<W>(static_cast<u64>(W{a} * W{b}) + static_cast<u64>(c));
    },
        W, T, T, W>(table, "mad.wide" + type);
  }
}

template <class T>
void add_bits(Table& table) {
  const std::string type = ".b" + bits_of<T>();
  add<[](T a, T b) { return static_cast<T>(a & b); }, T, T, T>(table, "and" + type);
  add<[](T a, T b) { return static_cast<T>(a | b); }, T, T, T>(table, "or" + type);
  add<[](T a, T b) { return static_cast<T>(a ^ b); }, T, T, T>(table, "xor" + type);
  add<[](T a) { return static_cast<T>(~a); }, T, T>(table, "not" + type);
  add<[](T a, u32 b) { return b >= sizeof(T) * 8 ? T{0} : static_cast<T>(u64{a} << b); }, T, T,
      u32>(table, "shl" + type);
  add<[](T a) { return a; }, T, T>(table, "move " + bits_of<T>());
  for (const char* const kind : {"b", "u", "s"})
    table["selp." + (kind + bits_of<T>())] = {
        &selected<T>, Flow::next, {sizeof(T), sizeof(T), sizeof(T), Operation::predicate}};
}

template <class T>
void add_comparisons(Table& table, const std::string& type) {
  const auto compare = [&](const std::string& relation, Handler handler) {
    table["setp." + relation + "." + type] = {
        handler, Flow::next, {Operation::predicate, sizeof(T), sizeof(T)}};
  };
  compare("eq", &compared<[](T a, T b) { return a == b; }, T>);
  if constexpr (std::is_floating_point_v<T>) {
    compare("ne", &compared<[](T a, T b) { return a < b || b < a; }, T>);
    compare("equ", &compared<[](T a, T b) { return !(a < b || b < a); }, T>);
    compare("neu", &compared<[](T a, T b) { return a != b; }, T>);
    compare("ltu", &compared<[](T a, T b) { return !(a >= b); }, T>);
    compare("leu", &compared<[](T a, T b) { return !(b < a); }, T>);
    compare("gtu", &compared<[](T a, T b) { return !(a <= b); }, T>);
    compare("geu", &compared<[](T a, T b) { return !(a < b); }, T>);
    compare("nan", &compared<[](T a, T b) { return std::isnan(a) || std::isnan(b); }, T>);
    compare("num", &compared<[](T a, T b) { return !std::isnan(a) && !std::isnan(b); }, T>);
  } else {
    compare("ne", &compared<[](T a, T b) { return a != b; }, T>);
  }
  compare("lt", &compared<[](T a, T b) { return a < b; }, T>);
  compare("le", &compared<[](T a, T b) { return a <= b; }, T>);
  compare("gt", &compared<[](T a, T b) { return b < a; }, T>);
  compare("ge", &compared<[](T a, T b) { return a >= b; }, T>);
}

template <class D, class S>
D converted(S value) {
  return static_cast<D>(value);
}

template <class D, class S>
void add_conversion(Table& table) {
  add<converted<D, S>, D, S>(table, std::string("cvt.") + name_of<D> + "." + name_of<S>);
}

// Conversions from S to all integers, and to float.
template <class S>
void add_conversions(Table& table) {
  add_conversion<u16, S>(table), add_conversion<u32, S>(table), add_conversion<u64, S>(table);
  add_conversion<s16, S>(table), add_conversion<s32, S>(table), add_conversion<s64, S>(table);
  add<converted<float, S>, float, S>(table, std::string("cvt.rn.f32.") + name_of<S>);
}

void add_reals(Table& table) {
  using F = float;
  for (const char* const rounding : {"", ".rn"}) {
    const std::string type = std::string(rounding) + ".f32";
    add<[](F a, F b) { return a + b; }, F, F, F>(table, "add" + type);
    add<[](F a, F b) { return a - b; }, F, F, F>(table, "sub" + type);
    add<[](F a, F b) { return a * b; }, F, F, F>(table, "mul" + type);
  }
  add<[](F a, F b) { return a / b; }, F, F, F>(table, "div.rn.f32");
  add<[](F a) { return 1.0f / a; }, F, F>(table, "rcp.rn.f32");
  add<[](F a) { return std::sqrt(a); }, F, F>(table, "sqrt.rn.f32");
  add<[](F a, F b, F c) { return real::fma(a, b, c); }, F, F, F, F>(table, "fma.rn.f32");
  add<[](F a, F b, F c) { return real::fma_down(a, b, c); }, F, F, F, F>(table, "fma.rm.f32");
  add<[](F a) { return -a; }, F, F>(table, "neg.f32");
  add<[](F a) { return std::fabs(a); }, F, F>(table, "abs.f32");
  add<[](F a, F b) { return std::copysign(b, a); }, F, F, F>(table, "copysign.f32");
  add<[](F a, F b) { return std::fmax(a, b); }, F, F, F>(table, "max.f32");
  add<[](F a, F b) { return std::fmin(a, b); }, F, F, F>(table, "min.f32");
  add<[](F a) { return 0 < a ? (a < 1 ? a : 1.0f) : 0.0f; }, F, F>(table, "cvt.sat.f32.f32");
  table["selp.f32"] = {&selected<F>, Flow::next, {4, 4, 4, Operation::predicate}};

  add<[](F a) { return real::ex2(a, false); }, F, F>(table, "ex2.approx.f32");
  add<[](F a) { return real::ex2(a, true); }, F, F>(table, "ex2.approx.ftz.f32");
  add<[](F a) { return real::rcp(a, false); }, F, F>(table, "rcp.approx.f32");
  add<[](F a) { return real::rcp(a, true); }, F, F>(table, "rcp.approx.ftz.f32");
  add<[](F a) { return real::rsqrt(a, false); }, F, F>(table, "rsqrt.approx.f32");
  add<[](F a) { return real::rsqrt(a, true); }, F, F>(table, "rsqrt.approx.ftz.f32");
  add<[](F a, F b) { return real::quotient(a, b); }, F, F, F>(table, "div.approx.f32");
  add<[](F a, F b) { return real::quotient(a, b); }, F, F, F>(table, "div.full.f32");

  add<[](u16 a) { return real::from_half(a); }, F, u16>(table, "cvt.f32.f16");
  add<[](F a) { return real::to_half(a); }, u16, F>(table, "cvt.rn.f16.f32");
  add<[](u16 a) { return real::from_bfloat(a); }, F, u16>(table, "cvt.f32.bf16");
  add<[](F a) { return real::to_bfloat(a); }, u16, F>(table, "cvt.rn.bf16.f32");
  add<[](F a, F b) { return u32{real::to_half(a)} << 16 | real::to_half(b); }, u32, F, F>(
      table, "cvt.rn.f16x2.f32");
  add<[](F a, F b) { return u32{real::to_bfloat(a)} << 16 | real::to_bfloat(b); }, u32, F, F>(
      table, "cvt.rn.bf16x2.f32");
  add<[](F a, F b) { return static_cast<u16>(real::to_e4m3(a) << 8 | real::to_e4m3(b)); }, u16, F,
      F>(table, "cvt.rn.satfinite.e4m3x2.f32");
}

// A byte of the eight in a and b for each of the selector's four digits, or its sign.
u32 permuted(u32 a, u32 b, u32 selector) {
  const u64 bytes = u64{b} << 32 | a;
  u32 result = 0;
  for (u32 i = 0; i < 4; ++i) {
    const u32 digit = selector >> (4 * i) & 15;
    auto byte = static_cast<u32>(bytes >> (8 * (digit & 7)) & 0xFF);
    if (digit & 8) byte = byte & 0x80 ? 0xFF : 0;
    result |= byte << (8 * i);
  }
  return result;
}

void add_predicates(Table& table) {
  constexpr std::uint8_t p = Operation::predicate;
  table["and.pred"] = {&logic<[](u32 a, u32 b) { return a & b; }>, Flow::next, {p, p, p}};
  table["or.pred"] = {&logic<[](u32 a, u32 b) { return a | b; }>, Flow::next, {p, p, p}};
  table["xor.pred"] = {&logic<[](u32 a, u32 b) { return a ^ b; }>, Flow::next, {p, p, p}};
  table["not.pred"] = {&logic<[](u32 a, u32) { return ~a; }>, Flow::next, {p, p}};
  table["move pred"] = {&logic<[](u32 a, u32) { return a; }>, Flow::next, {p, p}};
}

template <class Whole, class Part, std::size_t count>
void add_composition(Table& table) {
  std::vector<std::uint8_t> join(1 + count, sizeof(Part)), split(1 + count, sizeof(Part));
  join.front() = split.back() = sizeof(Whole);
  const std::string name = bits_of<Whole>() + " " + std::to_string(count);
  table["join " + name] = {&joined<Whole, Part, count>, Flow::next, join};
  table["split " + name] = {&split_up<Whole, Part, count>, Flow::next, split};
}

Table all_operations() {
  Table table;
  add_integer<u16>(table), add_integer<u32>(table), add_integer<u64>(table);
  add_integer<s16>(table), add_integer<s32>(table), add_integer<s64>(table);
  add_bits<u16>(table), add_bits<u32>(table), add_bits<u64>(table);
  add_comparisons<u16>(table, "u16"), add_comparisons<u16>(table, "b16");
  add_comparisons<u32>(table, "u32"), add_comparisons<u32>(table, "b32");
  add_comparisons<u64>(table, "u64"), add_comparisons<u64>(table, "b64");
  add_comparisons<s16>(table, "s16"), add_comparisons<s32>(table, "s32");
  add_comparisons<s64>(table, "s64"), add_comparisons<float>(table, "f32");
  add_conversions<u16>(table), add_conversions<u32>(table), add_conversions<u64>(table);
  add_conversions<s16>(table), add_conversions<s32>(table), add_conversions<s64>(table);
  add_reals(table);
  add_predicates(table);
  add_composition<u32, u16, 2>(table), add_composition<u64, u32, 2>(table);
  add_composition<u64, u16, 4>(table);
  add<permuted, u32, u32, u32, u32>(table, "prmt.b32");
  add<[](u64 a) { return a; }, u64, u64>(table, "cvta.to.global.u64");
  add_warp_operations(table);
  return table;
}

}  // namespace

const Table& operations() {
  static const Table all = all_operations();
  return all;
}

}  // namespace ptx
