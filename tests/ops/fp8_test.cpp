// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// 8-bit matrices: every code and the rounding against the definition of e4m3, the scales of rows,
// and products and gradients of linear maps over such a base against float64.
#include "dropbp/ops/fp8.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "dropbp/ops/projection.hpp"
#include "ops/ops_test.hpp"
#include "support/throws.hpp"

using namespace dropbp::ops;
using namespace dropbp::test;
using dropbp::BFloat16;
using dropbp::E4m3;

static_assert(!std::is_copy_constructible_v<Fp8Matrix> &&
              std::is_nothrow_move_constructible_v<Fp8Matrix>);

namespace {

// The magnitude of a code, by the definition.
double magnitude_of(unsigned code) {
  const int exponent = static_cast<int>(code >> 3), fraction = static_cast<int>(code & 7);
  return exponent == 0 ? std::ldexp(fraction, -9) : std::ldexp(8 + fraction, exponent - 10);
}

// The code of the nearest value, found by looking at all of them; of two, the even one.
unsigned nearest_code(float value) {
  const unsigned sign = std::signbit(value) ? 0x80 : 0;
  if (std::isnan(value)) return 0x7F;
  const double size = std::abs(static_cast<double>(value));
  unsigned best = 0;
  for (unsigned code = 1; code < 0x7F; ++code) {
    const double before = std::abs(magnitude_of(best) - size),
                 now = std::abs(magnitude_of(code) - size);
    if (now < before || (now <= before && (code % 2 == 0 || std::isinf(size)))) best = code;
  }
  return sign | best;
}

float next(float value) { return std::nextafter(value, 1e30f); }
float previous(float value) { return std::nextafter(value, -1e30f); }

// What the codes of an element may differ from it.
double bound_of(double value, double scale) {
  return std::max(0x1p-4 * std::abs(value), 0x1p-10 * scale);
}

template <class T>
double to_double(T value) {
  if constexpr (std::is_same_v<T, BFloat16>)
    return static_cast<double>(dropbp::to_float(value));
  else
    return static_cast<double>(value);
}

Matrix<double> dequantized(const Fp8Matrix& matrix) {
  Matrix<double> values(matrix.rows(), matrix.columns());
  matrix.dequantize(values.view());
  return values;
}

Matrix<float> rounded_to_bfloat16(Matrix<float> values) {
  for (float& value : elements(values))
    value = dropbp::to_float(dropbp::from_float<BFloat16>(value));
  return values;
}

// Values whose rows are of very different sizes.
Matrix<float> values_of_rows(Index rows, Index columns, std::uint64_t seed) {
  Matrix<float> values = random_matrix<float>(rows, columns, seed);
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < columns; ++j)
      values.row(i)[j] *= std::ldexp(1.0f, static_cast<int>(i * 5 % 23) - 14);
  return rounded_to_bfloat16(std::move(values));
}

template <class T>
const Matrix<T> converted(const Matrix<float>& from) {
  Matrix<T> to(from.rows(), from.columns());
  upload<T>(to.view(), from.view());
  return to;
}

}  // namespace

TEST_CASE("e4m3: all 256 codes have the values of the definition") {
  for (unsigned code = 0; code < 256; ++code) {
    CAPTURE(code);
    const E4m3 number{static_cast<std::uint8_t>(code)};
    const float value = dropbp::to_float(number);
    if ((code & 0x7F) == 0x7F) {
      CHECK(std::isnan(value));
      CHECK(dropbp::to_e4m3(value).bits == 0x7F);
      continue;
    }
    CHECK(std::abs(static_cast<double>(value)) == magnitude_of(code & 0x7F));
    CHECK(std::signbit(value) == (code >= 128));
    CHECK(dropbp::to_e4m3(value).bits == code);
  }
}

TEST_CASE("e4m3: rounds to nearest, ties to even, and large numbers to 448") {
  std::vector<float> values{0.0f,
                            464.0f,
                            previous(464.0f),
                            next(464.0f),
                            480.0f,
                            1e30f,
                            std::numeric_limits<float>::max(),
                            std::numeric_limits<float>::infinity(),
                            std::numeric_limits<float>::quiet_NaN(),
                            std::numeric_limits<float>::denorm_min(),
                            std::numeric_limits<float>::min()};
  for (unsigned code = 0; code < 0x7E; ++code) {
    const auto low = static_cast<float>(magnitude_of(code)),
               high = static_cast<float>(magnitude_of(code + 1)), middle = (low + high) / 2;
    for (const float value : {low, middle}) {
      values.push_back(value), values.push_back(next(value));
      if (value > 0) values.push_back(previous(value));
    }
  }
  for (std::uint32_t bits = 0; bits < 0x8000; ++bits)  // every BFloat16, and what lies between
    values.push_back(dropbp::detail::float_of(bits << 16 | (bits * 2654435761u >> 16)));
  for (const float value : values)
    for (const float number : {value, -value}) {
      const unsigned got = dropbp::to_e4m3(number).bits, wanted = nearest_code(number);
      if (got == wanted) continue;
      CAPTURE(number, got);
      REQUIRE(got == wanted);
    }
}

TEST_CASE("e4m3: a scale is the least power of two that brings a row to at most 448") {
  const auto check = [](float largest) {
    CAPTURE(largest);
    const auto [scale, inverse] = dropbp::e4m3_scale(dropbp::detail::bits_of(largest));
    int exponent = 0;
    CHECK(std::frexp(scale, &exponent) == 0.5f);
    CHECK(static_cast<double>(scale) * static_cast<double>(inverse) == 1.0);
    CHECK(static_cast<double>(largest) / static_cast<double>(scale) <= 448.0);
    const bool least = static_cast<double>(largest) / static_cast<double>(scale) * 2 > 448.0;
    CHECK((least || scale == 0x1p-117f));
    CHECK(scale >= 0x1p-117f);
  };
  check(0.0f), check(std::numeric_limits<float>::denorm_min());
  for (int exponent = -126; exponent < 128; ++exponent)
    for (const float fraction : {1.0f, 1.5f, previous(1.75f), 1.75f, next(1.75f), previous(2.0f)})
      check(std::ldexp(fraction, exponent));
  for (const float none :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    const auto [scale, inverse] = dropbp::e4m3_scale(dropbp::detail::bits_of(none));
    CHECK((std::isnan(scale) && std::isnan(inverse)));
  }
}

TEST_CASE("8-bit matrices: each element is the nearest code times its row's scale, in any type") {
  for (const auto& [rows, columns] : {std::pair<Index, Index>{1, 1}, {7, 16}, {300, 67}, {2, 0}}) {
    CAPTURE(rows, columns);
    Matrix<float> values = values_of_rows(rows, columns, 3);
    if (rows > 5) std::fill_n(values.row(4), columns, 0.0f);
    const Fp8Matrix matrix = Fp8Matrix::quantize(values.view());
    REQUIRE((matrix.rows() == rows && matrix.columns() == columns));
    const Index stride = (columns + 15) / 16 * 16;
    CHECK(matrix.bytes() == static_cast<std::size_t>(rows * (stride + 4)));
    Matrix<float> floats(rows, columns);
    Matrix<BFloat16> narrow(rows, columns);
    matrix.dequantize(floats.view()), matrix.dequantize(narrow.view());
    for (Index i = 0; i < rows; ++i) {
      const float scale = matrix.scales()[i];
      for (Index j = 0; j < columns; ++j) {
        const float value = values.row(i)[j];
        REQUIRE(matrix.codes().row(i)[j] == nearest_code(value / scale));
        REQUIRE(floats.row(i)[j] == dropbp::to_float(E4m3{matrix.codes().row(i)[j]}) * scale);
        REQUIRE(to_double(narrow.row(i)[j]) == to_double(floats.row(i)[j]));
        REQUIRE(std::abs(to_double(floats.row(i)[j]) - to_double(value)) <=
                bound_of(to_double(value), to_double(scale)));
      }
      for (Index j = columns; j < stride; ++j) REQUIRE(matrix.codes().row(i)[j] == 0);
    }
    if (rows < 7) continue;
    Matrix<float> some(2, columns);
    matrix.dequantize_rows(3, 2, some.view());
    CHECK(same_bits(elements(some), elements(floats.view().rows_from(3, 2))));
    const Fp8Matrix copy = matrix.clone();
    Matrix<float> again(rows, columns);
    copy.dequantize(again.view());
    CHECK(same_bits(elements(again), elements(floats)));
  }
}

TEST_CASE("8-bit matrices: of any type and number of threads, the same codes") {
  const ThreadsGuard guard;
  const Matrix<float> values = values_of_rows(300, 67, 4);
  const Fp8Matrix wanted = Fp8Matrix::quantize(values.view());
  MemoryPool pool(PoolFill::nan);
  const auto check = [&](const Fp8Matrix& got) {
    REQUIRE(got.codes().stride == wanted.codes().stride);
    CHECK(same_bits(std::span(got.codes().data, 300u * 80u),
                    std::span(wanted.codes().data, 300u * 80u)));
    CHECK(same_bits(std::span(got.scales(), 300), std::span(wanted.scales(), 300)));
  };
  for (const int threads : thread_counts) {
    use_threads(threads);
    check(Fp8Matrix::quantize(values.view(), pool));
    check(Fp8Matrix::quantize(converted<BFloat16>(values).view(), pool));
    check(Fp8Matrix::quantize(converted<double>(values).view(), pool));
  }
}

TEST_CASE("8-bit matrices: a weight that is not finite is refused, a row of inputs becomes NaN") {
  Matrix<float> values = random_matrix<float>(4, 20, 1);
  values.row(2)[19] = std::numeric_limits<float>::infinity();
  ::test::check_throws<std::invalid_argument>(
      [&] { Fp8Matrix::quantize(values.view(), "a.weight"); },
      {"8-bit codes", "a.weight is infinite at [2, 19]"});
  MemoryPool pool;
  for (const float bad : {values.row(2)[19], -std::numeric_limits<float>::quiet_NaN()}) {
    values.row(2)[19] = bad;
    const Fp8Matrix matrix = Fp8Matrix::quantize(std::as_const(values).view(), pool);
    const Matrix<double> got = dequantized(matrix);
    for (Index i = 0; i < 4; ++i)
      for (Index j = 0; j < 20; ++j) CHECK(std::isnan(got.row(i)[j]) == (i == 2));
  }
  ::test::check_throws<std::invalid_argument>(
      [&] { Fp8Matrix::quantize(values.view(), "a.weight"); }, {"a.weight is NaN at [2, 19]"});
  const Fp8Matrix matrix = Fp8Matrix::quantize(random_matrix<float>(4, 20, 1).view());
  Matrix<float> y(4, 5), wide(4, 21);
  CHECK(contains(invalid_message([&] { matrix.dequantize(wide.view()); }), "[4, 20]"));
  CHECK(contains(invalid_message([&] { matrix.dequantize_rows(3, 2, y.view()); }), "2 from 3"));
  CHECK(contains(
      invalid_message([&] { matrix.multiply(y.view(), matrix, Accumulate::overwrite, pool); }),
      "sizes that fit"));
}

// The exact product of dequantised operands, up to the rounding of sums of `depth` terms in float;
// and a share of the sum of the terms' magnitudes away from the product of the exact operands.
TEST_CASE("8-bit matrices: products are near those of float64, within the bound of two roundings") {
  const auto check = [](auto zero, double unit) {
    using T = decltype(zero);
    MemoryPool pool(PoolFill::nan);
    for (const auto& [m, n, k] :
         {std::array<Index, 3>{1, 1, 1}, {5, 600, 67}, {33, 48, 512}, {0, 3, 4}}) {
      CAPTURE(m, n, k);
      const Matrix<float> x = values_of_rows(m, k, 5), w = values_of_rows(n, k, 6);
      const Fp8Matrix matrix = Fp8Matrix::quantize(w.view());
      const Fp8Matrix input = Fp8Matrix::quantize(converted<T>(x).view(), pool);
      const Matrix<double> fx = dequantized(input), fw = dequantized(matrix);
      for (const Accumulate mode : {Accumulate::overwrite, Accumulate::add}) {
        const bool add = mode == Accumulate::add;
        const Matrix<float> before = rounded_to_bfloat16(random_matrix<float>(m, n, 7));
        Matrix<T> y = converted<T>(before);
        matrix.multiply(y.view(), input, mode, pool);
        double shares = 0;
        for (Index i = 0; i < m; ++i)
          for (Index j = 0; j < n; ++j) {
            double sum = 0, exact = 0, terms = 0, bound = 0, variance = 0;
            for (Index p = 0; p < k; ++p) {
              const double a = to_double(x.row(i)[p]), b = to_double(w.row(j)[p]);
              sum += fx.row(i)[p] * fw.row(j)[p];
              terms += std::abs(fx.row(i)[p] * fw.row(j)[p]);
              exact += a * b;
              variance += a * b * a * b;
              const double da = bound_of(a, to_double(input.scales()[i])),
                           db = bound_of(b, to_double(matrix.scales()[j]));
              bound += std::abs(a) * db + std::abs(b) * da + da * db;
            }
            const double old = add ? to_double(before.row(i)[j]) : 0.0,
                         got = to_double(y.row(i)[j]);
            const double rounding = unit * (std::abs(sum) + std::abs(old)) * 1.01 +
                                    static_cast<double>(k + 1) * std::min(unit, 0x1p-24) *
                                        (terms + std::abs(old)) * 1.01;
            REQUIRE(std::abs(got - old - sum) <= rounding);
            REQUIRE(std::abs(got - old - exact) <= bound + rounding);
            shares += (sum - exact) * (sum - exact) / variance;
          }
        // Errors of terms are independent, so that of a sum is a share of the root of the sum of
        // their squares. Between 1/2 and 1, where most of it is, codes are 1/16 apart.
        if (m * n > 1000) {
          const double share = std::sqrt(shares / static_cast<double>(m * n));
          CAPTURE(share);
          CHECK((share > 0.03 && share < 0.036));
        }
      }
    }
  };
  SECTION("float") { check(float{}, 0x1p-24); }
  SECTION("double") { check(double{}, 0x1p-53); }
  SECTION("bfloat16") { check(BFloat16{}, 0x1p-8); }
}

namespace {

const std::vector<Projection<float>::Part> two{{"gate_proj.weight", 300}, {"up_proj.weight", 45}};
constexpr Index inputs = 67;

template <class T>
Projection<T> adapted(LoraConfig lora) {
  std::vector<typename Projection<T>::Part> parts;
  for (const auto& part : two) parts.push_back({part.name, part.rows});
  Projection<T> projection(parts, inputs, lora, MemoryPool(PoolFill::nan));
  for (std::size_t i = 0; i < 2; ++i)
    projection.set_weight(
        i, values_of_rows(two[i].rows, inputs, 20 + static_cast<std::uint64_t>(i)).view());
  std::uint64_t seed = 30;
  for (auto* const one : {&projection.lora_a, &projection.lora_b}) {
    const Matrix<float> values =
        rounded_to_bfloat16(random_matrix<float>(one->rows(), one->columns(), ++seed, -0.3, 0.3));
    upload<T>(one->value(), values.view());
  }
  return projection;
}

LoraConfig eight_bits() {
  return {.rank = 3, .alpha = 6.0, .quantize = true, .format = QuantizedFormat::fp8};
}

// The float64 projection with the dequantised base, as an oracle.
Projection<double> oracle() {
  LoraConfig lora = eight_bits();
  lora.quantize = false;
  Projection<double> dense = adapted<double>(lora), bare = adapted<double>(eight_bits());
  set_zero(bare.lora_b.value());
  for (std::size_t i = 0; i < 2; ++i)
    bare.merged_weight(i, {dense.weight_of(i), two[i].rows, inputs});
  return dense;
}

}  // namespace

TEST_CASE(
    "projection: in 8 bits its outputs and gradients are float64's with the dequantised base") {
  const auto check = [](auto zero, double unit) {
    using T = decltype(zero);
    Projection<T> projection = adapted<T>(eight_bits());
    Projection<double> exact = oracle();
    CHECK(projection.weight.size() == 0);
    CHECK(projection.weight_of(0) == nullptr);
    CHECK(projection.base_bytes() == 345u * (80u + 4u));
    CHECK_THROWS_AS(projection.quantized(0), std::out_of_range);

    MemoryPool pool;
    const Matrix<float> x = values_of_rows(9, inputs, 40),
                        dy = rounded_to_bfloat16(random_matrix<float>(9, 345, 41)),
                        u0 = rounded_to_bfloat16(random_matrix<float>(9, 6, 42));
    const Fp8Matrix rounded = Fp8Matrix::quantize(x.view(), pool);
    // The base sees the input in 8 bits, the adapters see the input itself.
    const Matrix<double> base_in = dequantized(rounded), in = converted<double>(x);
    Matrix<double> wanted(9, 345), bare(9, 345), u(9, 6);
    exact.forward(wanted.view(), in.view(), Accumulate::overwrite, u.view());
    gemm_nt(bare.view(), in.view(), exact.weight.value());
    for (std::size_t i = 0; i < wanted.size(); ++i) wanted.data()[i] -= bare.data()[i];
    gemm_nt(wanted.view(), base_in.view(), exact.weight.value(), Accumulate::add);

    const auto differs = [](const auto& got, std::span<const double> to) {
      std::vector<double> values;
      for (const auto value : got) values.push_back(to_double(value));
      return scaled_difference(values, to);
    };
    // Sums and the two adapters' products are rounded to T.
    const Matrix<T> tx = converted<T>(x), tdy = converted<T>(dy), tu0 = converted<T>(u0);
    Matrix<T> y(9, 345), tu(9, 6);
    projection.forward(y.view(), tx.view(), Accumulate::overwrite, tu.view());
    CHECK(differs(elements(y), elements(std::as_const(wanted))) <= 8 * unit);

    // The gradients: those of the dequantised base, of the input that came in.
    Matrix<T> dx(9, inputs);
    const Matrix<T> grad_u = projection.adapter_gradient(tdy.view());
    projection.backward_parameters(tdy.view(), tx.view(), tu0.view(), grad_u);
    projection.backward_input(dx.view(), tdy.view(), grad_u);
    const Matrix<double> edy = converted<double>(dy), eu = converted<double>(u0);
    Matrix<double> edx(9, inputs);
    const Matrix<double> egrad_u = exact.adapter_gradient(edy.view());
    exact.backward_parameters(edy.view(), in.view(), eu.view(), egrad_u);
    exact.backward_input(edx.view(), edy.view(), egrad_u);
    CHECK(differs(elements(dx), elements(std::as_const(edx))) <= 8 * unit);
    const auto gradients = [&](const auto& a, const auto& b) {
      return differs(std::span(a.gradient().data, a.size()),
                     std::span<const double>(b.gradient().data, b.size()));
    };
    CHECK(gradients(projection.lora_a, exact.lora_a) <= 8 * unit);
    CHECK(gradients(projection.lora_b, exact.lora_b) <= 8 * unit);

    // Added to what is there.
    Matrix<T> sum = converted<T>(dy);
    projection.forward(sum.view(), tx.view(), Accumulate::add, tu.view());
    for (std::size_t i = 0; i < wanted.size(); ++i) wanted.data()[i] += edy.data()[i];
    CHECK(differs(elements(sum), elements(std::as_const(wanted))) <= 8 * unit);
  };
  SECTION("float") { check(float{}, 0x1p-22); }
  SECTION("double") { check(double{}, 0x1p-50); }
  SECTION("bfloat16") { check(BFloat16{}, 0x1p-8); }
}

TEST_CASE("projection: an 8-bit base takes and gives its codes, magnitudes and merged weights") {
  LoraConfig lora = eight_bits();
  Projection<double> projection = adapted<double>(lora);
  projection.set_weight(1, Fp8Matrix::quantize(values_of_rows(45, inputs, 50).view()));
  Matrix<double> merged(45, inputs), wanted(45, inputs);
  set_zero(projection.lora_b.value());
  projection.merged_weight(1, merged.view());
  const Matrix<double> base =
      dequantized(Fp8Matrix::quantize(values_of_rows(45, inputs, 50).view()));
  CHECK(same_bits(elements(std::as_const(merged)), elements(base)));
  CHECK_THROWS_AS(
      projection.set_weight(1, Nf4Matrix::quantize(values_of_rows(45, inputs, 50).view())),
      std::out_of_range);
  CHECK_THROWS_AS(
      projection.set_weight(1, Fp8Matrix::quantize(values_of_rows(44, inputs, 50).view())),
      std::invalid_argument);
  lora.magnitudes = true;
  Projection<double> with = adapted<double>(lora), without = adapted<double>(eight_bits());
  with.reset_magnitudes();
  const Matrix<double> x = converted<double>(values_of_rows(5, inputs, 51));
  Matrix<double> y(5, 345), plain(5, 345), u(5, 6);
  with.forward(y.view(), x.view(), Accumulate::overwrite, u.view());
  without.forward(plain.view(), x.view(), Accumulate::overwrite, u.view());
  CHECK(same_bits(elements(y), elements(plain)));  // at the start magnitudes change nothing
}
