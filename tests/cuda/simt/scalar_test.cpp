// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The arithmetic of the kernels: every value of the 16-bit types, every rounding case, and the
// functions of one element.
#include "dropbp/backend/cuda/scalar.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "dropbp/kernels/cuda/adamw.hpp"
#include "dropbp/kernels/cuda/gelu.hpp"
#include "dropbp/kernels/cuda/nf4.hpp"
#include "dropbp/kernels/cuda/squared_norms.hpp"
#include "dropbp/kernels/cuda/swiglu.hpp"
#include "dropbp/ops/nf4.hpp"
#include "simt_test.hpp"

using namespace dropbp::test;
using dropbp::BFloat16;
using dropbp::Half;

namespace {

template <class T>
struct Format;
template <>
struct Format<Half> {
  static constexpr int exponent_bits = 5, fraction_bits = 10;
};
template <>
struct Format<BFloat16> {
  static constexpr int exponent_bits = 8, fraction_bits = 7;
};

// The value as IEEE 754 defines it; exact in double.
template <class T>
double meaning(std::uint16_t bits) {
  constexpr int fraction_bits = Format<T>::fraction_bits,
                bias = (1 << (Format<T>::exponent_bits - 1)) - 1;
  const int exponent = bits >> fraction_bits & ((1 << Format<T>::exponent_bits) - 1),
            fraction = bits & ((1 << fraction_bits) - 1);
  const double sign = bits >> 15 != 0 ? -1 : 1;
  if (exponent == (1 << Format<T>::exponent_bits) - 1)
    return fraction != 0 ? std::numeric_limits<double>::quiet_NaN()
                         : sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - fraction_bits);
  return sign * std::ldexp((1 << fraction_bits) + fraction, exponent - bias - fraction_bits);
}

// The nearest number of the format. Of two equally near numbers it is the one with an even
// fraction.
template <class T>
std::uint16_t nearest(float value) {
  const double exact = std::abs(static_cast<double>(value));
  const auto sign = static_cast<std::uint16_t>(std::signbit(value) ? 0x8000 : 0);
  constexpr std::uint16_t infinity = ((1 << Format<T>::exponent_bits) - 1)
                                     << Format<T>::fraction_bits;
  // IEEE 754: a value that would round beyond the largest number becomes infinite.
  const double largest = meaning<T>(infinity - 1),
               beyond = largest + (largest - meaning<T>(infinity - 2));
  const auto value_of = [&](std::uint16_t bits) {
    return bits == infinity ? beyond : meaning<T>(bits);
  };
  if (exact >= beyond) return sign | infinity;
  std::uint16_t below = 0, above = infinity;  // bisection: magnitudes are ordered as their bits
  while (above - below > 1) {
    const auto middle = static_cast<std::uint16_t>((above + below) / 2);
    (value_of(middle) <= exact ? below : above) = middle;
  }
  const double down = exact - value_of(below), up = value_of(above) - exact;
  const std::uint16_t magnitude = down < up        ? below
                                  : up < down      ? above
                                  : below % 2 == 0 ? below
                                                   : above;
  return sign | magnitude;
}

template <class T>
void check_rounding(float value) {
  const std::uint16_t got = dropbp::cuda::from_float<T>(value).bits, wanted = nearest<T>(value);
  if (got != wanted)
    FAIL("rounding " << value << " gives the bits " << got << " instead of " << wanted);
}

template <class T>
void check_type() {
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    const float value = dropbp::cuda::to_float(T{bits});
    const double wanted = meaning<T>(bits);
    if (std::isnan(wanted)) {
      REQUIRE(std::isnan(value));
      REQUIRE(std::isnan(dropbp::cuda::to_float(dropbp::cuda::from_float<T>(value))));
      continue;
    }
    REQUIRE(static_cast<double>(value) == wanted);
    REQUIRE(std::signbit(value) == (bits >> 15 != 0));
    REQUIRE(dropbp::cuda::from_float<T>(value).bits == bits);
    // Midpoints between neighbours, and the values next to them.
    if (!std::isfinite(value)) continue;
    const double next = meaning<T>(static_cast<std::uint16_t>(bits + 1));
    if (!std::isfinite(next) || std::signbit(next) != std::signbit(value)) continue;
    const auto tie = static_cast<float>((wanted + next) / 2);
    check_rounding<T>(tie);
    check_rounding<T>(std::nextafter(tie, 0.0f));
    check_rounding<T>(std::nextafter(tie, tie < 0 ? -1e38f : 1e38f));
  }
  std::mt19937 random(11);
  for (int i = 0; i < 200000; ++i) {
    const auto value = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    if (std::isnan(value)) {
      REQUIRE(std::isnan(dropbp::cuda::to_float(dropbp::cuda::from_float<T>(value))));
    } else {
      check_rounding<T>(value);
    }
  }
  const float infinity = std::numeric_limits<float>::infinity(),
              largest = (std::numeric_limits<float>::max)();
  for (const float value :
       {0.0f, -0.0f, infinity, -infinity, largest, -largest,
        std::numeric_limits<float>::denorm_min(), 65504.0f, 65519.99f, 65520.0f, -65520.0f,
        0x1p-24f, 0x1p-25f, 0x1.000002p-25f, -0x1p-25f, 0x1p-133f, 0x1p-134f})
    check_rounding<T>(value);
}

// |got - wanted| in units of the float rounding error of `scale`.
double units(float got, long double wanted, long double scale) {
  return static_cast<double>(std::abs(static_cast<long double>(got) - wanted) / (scale * 0x1p-24L));
}

long double exact_sigmoid(long double x) { return 1 / (1 + std::exp(-x)); }
long double exact_silu(long double x) { return x * exact_sigmoid(x); }
long double exact_gelu(long double x) {
  const long double root = std::sqrt(2 / std::acos(-1.0L));
  return x / 2 * (1 + std::tanh(root * (x + 0.044715L * x * x * x)));
}

// Central differences in long double; the error is about 1e-12.
template <class F>
long double slope(F f, long double x) {
  const long double step = 1e-5L;
  return (f(x - 2 * step) - 8 * f(x - step) + 8 * f(x + step) - f(x + 2 * step)) / (12 * step);
}

}  // namespace

TEST_CASE("Half: all values, and rounding to nearest even") { check_type<Half>(); }
TEST_CASE("BFloat16: all values, and rounding to nearest even") { check_type<BFloat16>(); }

TEST_CASE("silu and its derivative agree with long double and with finite differences") {
  double worst = 0, worst_slope = 0, worst_difference = 0;
  for (float x = -30; x <= 30; x += 0.0117f) {
    const long double s = exact_sigmoid(x);
    // Units of the result: exp 2, the sum 1, the quotient 1, together 4. The rounding of x changes
    // exp by one unit of |x|, which changes the sum by |x| exp(-x) / (1 + exp(-x)).
    const long double conditioned = 4 + std::abs(static_cast<long double>(x)) * (1 - s);
    keep_worst(worst, units(dropbp::cuda::silu(x), exact_silu(x),
                            std::abs(exact_silu(x)) * conditioned + 0x1p-126L));
    const long double wanted = s + exact_silu(x) * (1 - s);
    // The two terms cancel, so the error is in units of their sizes. 1 - s has the absolute error
    // of s.
    keep_worst(worst_slope,
               units(dropbp::cuda::silu_derivative(x), wanted,
                     2 * conditioned * (s + std::abs(exact_silu(x)) * ((1 - s) + s)) + 0x1p-126L));
    keep_worst(worst_difference, std::abs(static_cast<double>(wanted - slope(exact_silu, x))));
  }
  CHECK(worst <= 1);
  CHECK(worst_slope <= 1);
  CHECK(worst_difference <= 1e-11);
  CHECK(dropbp::cuda::silu(-200.0f) == 0.0f);
  CHECK(dropbp::cuda::silu(200.0f) == 200.0f);
  CHECK(std::isnan(dropbp::cuda::silu(std::nanf(""))));
}

TEST_CASE("the gate of SwiGLU in 16 bits keeps its bound with the largest errors of fast math") {
  double worst = 0, worst_small = 0, largest = 0;
  bool ends = true;
  simt::run("gate", {}, 32, 1, [&](simt::HostContext ctx) {
    for (float x = -120 + 0.0131f * static_cast<float>(ctx.thread()); x <= 120; x += 0.4193f) {
      const long double wanted = exact_sigmoid(x);
      const float got = dropbp::cuda::detail::gate_sigmoid<BFloat16>(ctx, x);
      const auto error = static_cast<double>(std::abs(static_cast<long double>(got) - wanted));
      const double share = error / (static_cast<double>(wanted) *
                                    (5.5 + 1.173 * std::abs(static_cast<double>(x))) * 0x1p-23);
      if (x < -87.3f) {
        keep_worst(worst_small, error);
        continue;
      }
      keep_worst(worst, share);
      largest = std::max(largest, error / static_cast<double>(wanted));
    }
    const auto gate = [&](float x) { return dropbp::cuda::detail::gate_sigmoid<BFloat16>(ctx, x); };
    const auto is_one = [](float y) { return std::abs(y - 1.0f) <= 0x1p-22f; };
    ends = ends && is_one(gate(200.0f)) && is_one(gate(std::numeric_limits<float>::infinity())) &&
           gate(-200.0f) == 0.0f && std::isnan(gate(std::nanf("")));
  });
  CHECK(ends);
  CHECK(worst <= 1);
  CHECK(worst > 0.3);              // the emulated errors are there
  CHECK(worst_small <= 0x1p-125);  // 0 in the place of numbers below 2^-125
  CHECK(largest < 0x1p-15);        // far below the rounding to 8 or 11 bits
}

TEST_CASE("GELU and its derivative agree with long double and with finite differences") {
  double worst = 0, worst_slope = 0;
  for (float x = -12; x <= 12; x += 0.0037f) {
    const long double size = std::abs(static_cast<long double>(x));
    const long double inner =
        std::sqrt(2 / std::acos(-1.0L)) * (size + 0.044715L * size * size * size);
    // tanh has an error of 2 units and an argument with 5 roundings, which count 5 |inner| times
    // the slope 1 - t^2. The error is absolute, because 1 is added.
    const long double t = std::tanh(inner), absolute = 5 * inner * (1 - t * t) + 2 * t + 2;
    keep_worst(worst,
               units(dropbp::cuda::gelu(x), exact_gelu(x), size / 2 * (absolute + 2) + 0x1p-126L));
    // The second term is x / 2 (1 - t^2) d inner. 1 - t^2 has twice the error of t; 6 more
    // roundings follow.
    const long double inner_slope =
        std::sqrt(2 / std::acos(-1.0L)) * (1 + 3 * 0.044715L * size * size);
    keep_worst(worst_slope,
               units(dropbp::cuda::gelu_derivative(x), slope(exact_gelu, x),
                     (absolute + 2) / 2 + 1 + size / 2 * inner_slope * (2 * absolute + 8)));
  }
  CHECK(worst <= 1);
  CHECK(worst_slope <= 1);
  CHECK(dropbp::cuda::gelu(30.0f) == 30.0f);
  CHECK(dropbp::cuda::gelu(-30.0f) == 0.0f);
  CHECK(dropbp::cuda::gelu_derivative(30.0f) == 1.0f);
}

TEST_CASE("multiply_and_add for NF4 scales rounds the product and the sum separately") {
  std::mt19937_64 random(12);
  std::uniform_real_distribution<float> uniform(-1, 1);
  int fused_differs = 0;
  for (int i = 0; i < 100000; ++i) {
    const float a = uniform(random), b = uniform(random), c = uniform(random);
    volatile const float product = a * b;
    REQUIRE(dropbp::cuda::detail::multiply_and_add(a, b, c) == product + c);
    fused_differs += std::fma(a, b, c) != product + c;
  }
  CHECK(fused_differs > 1000);  // so the test can tell the difference
}

TEST_CASE("the AdamW update of one element agrees with long double") {
  std::mt19937_64 random(13);
  std::uniform_real_distribution<float> uniform(-1, 1), exponent(-12, 2);
  const dropbp::ops::AdamWConstants<float> o{.beta1 = 0.9f,
                                             .rest1 = 0.1f,
                                             .beta2 = 0.999f,
                                             .rest2 = 0.001f,
                                             .eps = 1e-8f,
                                             .factor = 0.37f};
  const float step = 0.003f, root = 1.7f, keep = 0.9997f;
  double worst[3] = {};
  for (int i = 0; i < 100000; ++i) {
    const float value = uniform(random), gradient = uniform(random) * std::exp(exponent(random)),
                m0 = uniform(random) * std::exp(exponent(random)),
                v0 = std::abs(uniform(random) * std::exp(exponent(random)));
    const long double g = static_cast<long double>(gradient) * static_cast<long double>(o.factor);
    const long double first = static_cast<long double>(o.beta1) * static_cast<long double>(m0),
                      second = static_cast<long double>(o.rest1) * g;
    const long double m = first + second;
    const long double v = static_cast<long double>(o.beta2) * static_cast<long double>(v0) +
                          static_cast<long double>(o.rest2) * g * g;
    const long double down =
        std::sqrt(v) * static_cast<long double>(root) + static_cast<long double>(o.eps);
    const long double change = static_cast<long double>(step) * m / down,
                      kept = static_cast<long double>(keep) * static_cast<long double>(value);
    float m1 = m0, v1 = v0;
    const float got =
        dropbp::cuda::detail::adamw_element(value, gradient, m1, v1, step, root, keep, o);
    // Roundings of m: factor, product, sum, together 3 of the sizes of the terms. Roundings of v,
    // which is positive: factor twice, square, product, sum, together 5.
    const long double m_size = std::abs(first) + std::abs(second);
    keep_worst(worst[0], units(m1, m, 3 * m_size));
    keep_worst(worst[1], units(v1, v, 5 * v));
    // Roundings of the change: step * m adds 1 to the error of m; the root halves the 5 of v and
    // adds 1; then the correction, eps and the quotient: 6.5 in all. After that the product `kept`
    // and the difference.
    keep_worst(worst[2],
               units(got, kept - change,
                     static_cast<long double>(step) / down * 3 * m_size + 7.5L * std::abs(change) +
                         std::abs(kept) + std::abs(kept) + std::abs(change)));
  }
  for (const double share : worst) CHECK(share <= 1);
}
