// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The rotation and the gated activations, compared with the CPU's ops and with long double.
#include <cmath>

#include "dropbp/kernels/cuda/gelu.hpp"
#include "dropbp/kernels/cuda/rope.hpp"
#include "dropbp/kernels/cuda/swiglu.hpp"
#include "dropbp/ops/rope.hpp"
#include "dropbp/ops/swiglu.hpp"
#include "simt_test.hpp"

using namespace dropbp::test;
using dropbp::BFloat16;
using dropbp::Half;

namespace {

struct Shape {
  Index rows, columns;
};
constexpr Shape shapes[] = {{1, 1}, {3, 5}, {2, 64}, {9, 24}, {1, 2064}, {0, 8}, {4, 0}};

long double exact_gelu(long double x) {
  const long double root = std::sqrt(2 / std::acos(-1.0L));
  return x / 2 * (1 + std::tanh(root * (x + 0.044715L * x * x * x)));
}
long double gelu_slope(long double x) {
  const long double step = 1e-5L;
  return (exact_gelu(x - 2 * step) - 8 * exact_gelu(x - step) + 8 * exact_gelu(x + step) -
          exact_gelu(x + 2 * step)) /
         (12 * step);
}
long double sigmoid(long double x) { return 1 / (1 + std::exp(-x)); }

}  // namespace

TEST_CASE("heads are rotated as on the CPU, forward and inverse") {
  for_each_scalar([](auto zero) {
    using T = decltype(zero);
    struct Case {
      Index rows, heads, head_size, others, sequence;
    };
    for (const Case c : {Case{1, 1, 2, 0, 1}, Case{7, 3, 6, 5, 3}, Case{5, 2, 32, 32, 2},
                         Case{3, 5, 128, 16, 3}, Case{0, 1, 2, 0, 1}, Case{2, 0, 8, 8, 2}})
      for (const Layout& layout : layouts)
        for (const bool inverse : {false, true}) {
          INFO(c.rows << " rows, " << c.heads << " heads of " << c.head_size << ", " << text(layout)
                      << ", inverse " << inverse);
          const Index columns = c.heads * c.head_size + c.others, half = c.head_size / 2;
          const dropbp::ops::RopeTable<float> table(c.sequence, c.head_size);
          const auto x0 = random_values<T>(c.rows * columns, 1, -3, 3);
          std::vector<float> cosine, sine;
          for (Index position = 0; position < c.sequence; ++position) {
            cosine.insert(cosine.end(), table.cosine(position), table.cosine(position) + half);
            sine.insert(sine.end(), table.sine(position), table.sine(position) + half);
          }
          const simt::Buffer<float> cosines(cosine), sines(sine);
          const auto got = in_all_schedules([&](auto& launch) {
            DeviceMatrix<T> x(c.rows, columns, layout, x0);
            dropbp::cuda::rope(launch, x.rows(), cosines.data(), sines.data(), c.heads, half,
                               c.sequence, inverse, c.rows);
            CHECK(x.gaps_are_poison());
            return x.values();
          });
          auto wanted = x0;
          dropbp::ops::rope<float>(
              {wanted.data(), c.rows, columns}, table, c.heads, c.sequence,
              inverse ? dropbp::ops::Rotation::inverse : dropbp::ops::Rotation::forward);
          // Both sides round two products and a sum of at most 3 sqrt(2). Columns after the heads
          // stay unchanged.
          CHECK(worst_share(got, wanted, [&](std::size_t i) {
                  if (static_cast<Index>(i) % columns >= c.heads * c.head_size) return 0.0;
                  return 1.01 * 2 * 3 * 4.25 * float_unit +
                         std::abs(static_cast<double>(wanted[i])) * unit<T> + least<T>;
                }) <= 1);
        }
  });
}

TEST_CASE("rotations by a quarter turn are exact") {
  // cos and sin are 0 and 1, so integers stay integers and have the CPU's bits.
  for_each_scalar([](auto zero) {
    using T = decltype(zero);
    const Index rows = 4, heads = 2, half = 8;
    const simt::Buffer<float> cosine(std::vector<float>(16, 0.0f)),
        sine(std::vector<float>(16, 1.0f));
    const auto x0 = random_integers(rows * heads * 2 * half, 3, 200);
    simt::Launcher launch;
    DeviceMatrix<T> x(rows, heads * 2 * half, {0, 0}, x0);
    dropbp::cuda::rope(launch, x.rows(), cosine.data(), sine.data(), heads, half, 2, false, rows);
    const auto got = x.values();
    for (std::size_t i = 0; i < x0.size(); ++i) {
      const bool first = i % 16 < 8;
      REQUIRE(got[i] == (first ? -x0[i + 8] : x0[i - 8]));
    }
  });
}

TEST_CASE("SwiGLU forward and backward agree with the CPU") {
  for_each_scalar([](auto zero) {
    using T = decltype(zero);
    for (const Shape shape : shapes)
      for (const Layout& layout : layouts) {
        INFO("[" << shape.rows << ", " << shape.columns << "], " << text(layout));
        const Index rows = shape.rows, m = shape.columns;
        const auto gate_up = random_values<T>(rows * 2 * m, 1, -6, 6),
                   gradient = random_values<T>(rows * m, 2);
        const auto size = static_cast<std::size_t>(rows * m);
        const auto got = in_all_schedules([&](auto& launch) {
          DeviceMatrix<T> in(rows, 2 * m, layout, gate_up), out(rows, m, layout),
              grad(rows, 2 * m, layout), d(rows, m, layout, gradient);
          dropbp::cuda::swiglu_forward(launch, out.rows(), in.rows(), rows, m);
          dropbp::cuda::swiglu_backward(launch, grad.rows(), d.rows(), in.rows(), rows, m);
          CHECK((out.gaps_are_poison() && grad.gaps_are_poison() && d.gaps_are_poison()));
          CHECK(same_bits(in.values(), gate_up));
          CHECK(same_bits(d.values(), out.values()));  // recomputed
          return joined(out.values(), grad.values());
        });
        std::vector<float> out(size), grad(2 * size), d = gradient;
        dropbp::ops::swiglu_forward<float>({out.data(), rows, m}, {gate_up.data(), rows, 2 * m});
        dropbp::ops::swiglu_backward<float>({grad.data(), rows, 2 * m}, {d.data(), rows, m},
                                            {gate_up.data(), rows, 2 * m});
        const auto wanted = joined(out, grad);
        CHECK(worst_share(got, wanted, [&](std::size_t i) {
                // Gates are at most 6. The silu has an error of 10 units (exp 2, |g| of it, sum,
                // quotient) of at most 6 on either side. Its derivative, at most 1.1, has 20 units
                // of terms of size 7 that cancel. Both are multiplied by an `up` of at most 6 and a
                // gradient of at most 1.
                // In 16 bits the sigmoid is three times as far off.
                const double size_of_terms =
                    (i < size ? 6 * 6 * 10 : (6 * 10 > 7 * 20 ? 6 * 10 : 7 * 20) * 6) *
                    (sizeof(T) == 2 ? 3 : 1);
                return 2 * size_of_terms * float_unit +
                       std::abs(static_cast<double>(wanted[i])) * unit<T> + least<T>;
              }) <= 1);
        // Relative to long double: silu(g) u has the error of silu and one rounding. In 16 bits the
        // sigmoid has 2 (5.5 + 1.173 |g|) units, and two products one each.
        const double silu_units = sizeof(T) == 2 ? 2 * (5.5 + 1.173 * 6) + 2 : 4 + 6 + 1;
        std::vector<long double> exact;
        for (std::size_t i = 0; i < size; ++i) {
          const auto row = i / static_cast<std::size_t>(m),
                     column = i % static_cast<std::size_t>(m),
                     at = row * 2 * static_cast<std::size_t>(m) + column;
          const auto g = static_cast<long double>(gate_up[at]),
                     u = static_cast<long double>(gate_up[at + static_cast<std::size_t>(m)]);
          exact.push_back(g * sigmoid(g) * u);
        }
        CHECK(worst_share(std::vector<float>(got.begin(), got.begin() + static_cast<Index>(size)),
                          exact, [&](std::size_t i) {
                            return std::abs(static_cast<double>(exact[i])) *
                                   (1.01 * silu_units * float_unit + unit<T>)+least<T>;
                          }) <= 1);
      }
  });
}

TEST_CASE("GELU forward and backward agree with long double") {
  for_each_scalar([](auto zero) {
    using T = decltype(zero);
    for (const Shape shape : shapes)
      for (const Layout& layout : layouts) {
        INFO("[" << shape.rows << ", " << shape.columns << "], " << text(layout));
        const Index rows = shape.rows, columns = shape.columns;
        const auto x0 = random_values<T>(rows * columns, 1, -6, 6),
                   gradient = random_values<T>(rows * columns, 2);
        const auto got = in_all_schedules([&](auto& launch) {
          DeviceMatrix<T> x(rows, columns, layout, x0), y(rows, columns, layout),
              dy(rows, columns, layout, gradient), dx(rows, columns, layout);
          dropbp::cuda::gelu_forward(launch, y.rows(), x.rows(), rows, columns);
          dropbp::cuda::gelu_backward(launch, dx.rows(), dy.rows(), x.rows(), rows, columns);
          CHECK((y.gaps_are_poison() && dx.gaps_are_poison()));
          CHECK((same_bits(x.values(), x0) && same_bits(dy.values(), gradient)));
          dropbp::cuda::gelu_backward(launch, dy.rows(), dy.rows(), x.rows(), rows,
                                      columns);  // in place
          CHECK(same_bits(dy.values(), dx.values()));
          return joined(y.values(), dx.values());
        });
        std::vector<long double> wanted;
        for (const float x : x0) wanted.push_back(exact_gelu(x));
        for (std::size_t i = 0; i < x0.size(); ++i)
          wanted.push_back(gelu_slope(x0[i]) * static_cast<long double>(gradient[i]));
        CHECK(worst_share(got, wanted, [&](std::size_t i) {
                const bool forward = i < x0.size();
                const double x = std::abs(static_cast<double>(x0[forward ? i : i - x0.size()]));
                const double inner = 0.79788456 * (x + 0.044715 * x * x * x), t = std::tanh(inner);
                // As for the element functions: the absolute error of 1 + tanh, times x / 2. The
                // derivative adds the slope of the inner function.
                const double absolute = 5 * inner * (1 - t * t) + 2 * t + 2;
                const double slope =
                    (absolute + 2) / 2 + 1 +
                    x / 2 * 0.79788456 * (1 + 3 * 0.044715 * x * x) * (2 * absolute + 8);
                const double units = forward ? x / 2 * (absolute + 2) : slope + 1;
                return 1.01 * units * float_unit +
                       std::abs(static_cast<double>(wanted[i])) * unit<T> + least<T>;
              }) <= 1);
      }
  });
}
