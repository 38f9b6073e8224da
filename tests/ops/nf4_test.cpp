// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// 4-bit matrices: the codes and bits of bitsandbytes, their size in memory, and which input is
// refused.
#include "dropbp/ops/nf4.hpp"

#include <array>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <limits>
#include <vector>

#include "dropbp/ops/elementwise.hpp"
#include "dropbp/ops/gemm.hpp"
#include "ops/ops_test.hpp"
#include "support/throws.hpp"

using namespace dropbp::ops;
using namespace dropbp::test;

static_assert(!std::is_copy_constructible_v<Nf4Matrix> &&
              std::is_nothrow_move_constructible_v<Nf4Matrix>);

namespace {

// The same values as in make_golden.py.
Matrix<float> golden_values(Index rows, Index columns, std::uint64_t seed,
                            const std::string& kind) {
  Matrix<float> result(rows, columns);
  std::uint64_t state = seed;
  for (std::size_t i = 0; i < result.size(); ++i) {
    int total = 0;
    for (int n = 0; n < 4; ++n) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      total += static_cast<int>(state >> 52);
    }
    float& value = result.data()[i] = static_cast<float>(total - 8190) * 0x1p-14f;
    if (kind == "outliers" && i % 97 == 5) value *= 32;
    if (kind == "zeros" && i / 64 % 3 != 1) value = 0;
  }
  return result;
}

std::string hex(const void* data, std::size_t bytes) {
  std::string text;
  for (std::size_t i = 0; i < bytes; ++i) {
    const auto byte = static_cast<const unsigned char*>(data)[i];
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}
template <class T>
std::string hex(const Matrix<T>& matrix) {
  return hex(matrix.data(), matrix.size() * sizeof(T));
}

template <class T>
std::string hash(const Matrix<T>& matrix) {
  Hash hash;
  hash.add(elements(matrix));
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(hash.value()));
  return text;
}

template <class T>
Matrix<T> random_of(Index rows, Index columns, std::uint64_t seed) {
  const Matrix<float> values = random_matrix<float>(rows, columns, seed);
  Matrix<T> m(rows, columns);
  for (std::size_t i = 0; i < m.size(); ++i)
    m.data()[i] = detail::rounded<T>(static_cast<Statistic<T>>(values.data()[i]));
  return m;
}

template <class T>
Matrix<T> dequantized(const Nf4Matrix& quantised) {
  Matrix<T> result(quantised.rows(), quantised.columns());
  std::memset(result.data(), 0x55, result.size() * sizeof(T));
  quantised.dequantize(result.view());
  return result;
}

}  // namespace

TEST_CASE("4-bit codes and values have the bits of bitsandbytes") {
  std::ifstream file(DROPBP_TEST_DATA "/nf4/golden.txt");
  std::string word, version, numbers;
  REQUIRE(std::getline(file, version));
  REQUIRE(file >> word >> numbers);
  CHECK(numbers == hex(detail::dynamic_values.data(), sizeof detail::dynamic_values));
  int cases = 0;
  std::string name, kind;
  Index rows = 0, columns = 0;
  std::uint64_t seed = 0;
  while (file >> word >> name >> rows >> columns >> seed >> kind) {
    INFO(version << ", case " << name);
    std::string codes, scales, group_scales, offset, values;
    REQUIRE(file >> word >> codes >> word >> scales >> word >> group_scales >> word >> offset >>
            word >> values);
    const Matrix<float> x = golden_values(rows, columns, seed, kind);
    const Nf4Matrix quantised = Nf4Matrix::quantize(x.view());
    const Matrix<float> restored = dequantized<float>(quantised);
    const float mean = quantised.offset();
    const bool hashed = x.size() > 256;
    CHECK((hashed ? hash(quantised.codes()) : hex(quantised.codes())) == codes);
    CHECK(hex(quantised.scales()) == scales);
    CHECK(hex(quantised.group_scales()) == group_scales);
    CHECK(hex(&mean, sizeof mean) == offset);
    CHECK((hashed ? hash(restored) : hex(restored)) == values);
    ++cases;
  }
  CHECK(cases == 7);
}

TEST_CASE("an 8-bit code stands for the nearest number, and on a tie for the even one") {
  for (int i = 0; i < 255; ++i) {
    const auto at = static_cast<std::size_t>(i);
    const float middle = detail::dynamic_middles[at];
    REQUIRE(detail::dynamic_values[at] < middle);
    REQUIRE(middle < detail::dynamic_values[at + 1]);
    REQUIRE(detail::dynamic_code(detail::dynamic_values[at]) == i);
    REQUIRE(detail::dynamic_code(std::nextafter(middle, -2.0f)) == i);
    REQUIRE(detail::dynamic_code(std::nextafter(middle, 2.0f)) == i + 1);
    REQUIRE(detail::dynamic_code(middle) == (i + 1) / 2 * 2);
  }
  CHECK(detail::dynamic_code(1.0f) == 255);
  CHECK(detail::dynamic_code(1.0000001f) == 255);
  CHECK(detail::dynamic_code(-1.0000001f) == 0);
}

TEST_CASE("a 4-bit matrix takes 4 bits per element and its share of the scales") {
  for (const auto& [rows, columns] :
       {std::pair<Index, Index>{0, 0}, {0, 5}, {1, 1}, {3, 43}, {128, 128}, {129, 129}}) {
    const Matrix<float> x = random_matrix<float>(rows, columns, 3);
    const Nf4Matrix quantised = Nf4Matrix::quantize(x.view());
    CHECK(quantised.rows() == rows);
    CHECK(quantised.columns() == columns);
    CHECK(quantised.bytes() == quantised.codes().size() + quantised.scales().size() +
                                   4 * quantised.group_scales().size() + 4);
    CHECK(quantised.bytes() == Nf4Matrix::bytes(rows, columns));
  }
  CHECK(Nf4Matrix::bytes(128, 128) == 128 * 128 / 2 + 256 + 4 + 4);
  const double bits =
      8.0 * static_cast<double>(Nf4Matrix::bytes(4096, 4096) - 4) / (4096.0 * 4096.0);
  CHECK(bits == 4 + 8.0 / 64 + 32.0 / (64 * 256));
}

TEST_CASE("row ranges, strides, types and thread counts give the same values") {
  // With an odd number of columns rows start in the middle of a byte and of a block.
  for (const Index columns : {1, 5, 64, 127, 200}) {
    const Matrix<float> x = random_matrix<float>(70, columns, 4);
    Matrix<float> wide(70, columns + 3);
    copy<float>(wide.view().columns_from(2, columns), x.view());
    const Nf4Matrix quantised = Nf4Matrix::quantize(x.view());
    const Nf4Matrix strided =
        Nf4Matrix::quantize(std::as_const(wide).view().columns_from(2, columns));
    const Matrix<float> all = dequantized<float>(quantised),
                        all_strided = dequantized<float>(strided);
    CHECK(same_bits(elements(all), elements(all_strided)));
    const Matrix<double> doubles = dequantized<double>(quantised);
    for (std::size_t i = 0; i < all.size(); ++i)
      REQUIRE(doubles.data()[i] == static_cast<double>(all.data()[i]));
    for (const Index first : {0, 1, 33, 69, 70}) {
      Matrix<float> panel(70, columns + 1);
      fill<float>(elements(panel), 5);
      const Matrix<float> before = clone(panel);
      const Index count = 70 - first;
      quantised.dequantize_rows(first, count,
                                panel.view().rows_from(0, count).columns_from(0, columns));
      for (Index i = 0; i < count; ++i) {
        REQUIRE(std::memcmp(panel.row(i), all.row(first + i),
                            static_cast<std::size_t>(columns) * sizeof(float)) == 0);
        REQUIRE(panel.row(i)[columns] == before.row(i)[columns]);
      }
    }
    const ThreadsGuard guard;
    use_threads(1);
    const Nf4Matrix serial = Nf4Matrix::quantize(x.view());
    const Matrix<float> all_serial = dequantized<float>(serial);
    CHECK(hex(serial.codes()) == hex(quantised.codes()));
    CHECK(hex(serial.scales()) == hex(quantised.scales()));
    CHECK(same_bits(elements(all), elements(all_serial)));
  }
}

TEST_CASE("no value is further from its code than half the widest gap") {
  // Half of the widest gap between codes is 0.152 of the scale, which is at most 1 here. The
  // scale's own code changes it by less than 0.01.
  const Matrix<float> x = random_matrix<float>(300, 200, 6);
  const Matrix<float> restored = dequantized<float>(Nf4Matrix::quantize(x.view()));
  for (std::size_t i = 0; i < x.size(); ++i)
    REQUIRE(std::abs(x.data()[i] - restored.data()[i]) <= 0.162f);
}

TEST_CASE("zeros stay zeros, also beside large values") {
  Matrix<float> x(3, 100);
  std::fill_n(x.data(), x.size(), 0.0f);
  for (const float value : elements(std::as_const(x))) REQUIRE(value == 0);
  const Matrix<float> all_zeros = dequantized<float>(Nf4Matrix::quantize(x.view()));
  for (const float value : elements(all_zeros)) REQUIRE(value == 0);
  x.row(2)[99] = 1e30f;
  x.row(0)[0] = -0.0f;
  x.row(0)[1] = std::numeric_limits<float>::denorm_min();
  const Matrix<float> restored = dequantized<float>(Nf4Matrix::quantize(x.view()));
  for (std::size_t i = 0; i + 1 < x.size(); ++i) REQUIRE(restored.data()[i] == 0);
  CHECK(restored.row(2)[99] == Approx(1e30f));
}

TEST_CASE("NaN and infinities are refused with their name and position") {
  const float nan = std::numeric_limits<float>::quiet_NaN(),
              inf = std::numeric_limits<float>::infinity();
  for (const auto& [value, word] : {std::pair<float, const char*>{nan, "NaN"},
                                    {-nan, "NaN"},
                                    {inf, "infinite"},
                                    {-inf, "infinite"}}) {
    Matrix<float> x = random_matrix<float>(20, 30, 7);
    x.row(13)[29] = value;
    test::check_throws<std::invalid_argument>(
        [&] { Nf4Matrix::quantize(x.view(), "q_proj.weight"); },
        {"finite", "q_proj.weight is ", word, "[13, 29]", "check"});
  }
  const Matrix<float> largest = [] {
    Matrix<float> x(1, 3);
    x.data()[0] = std::numeric_limits<float>::max(), x.data()[1] = -x.data()[0], x.data()[2] = 0;
    return x;
  }();
  const Matrix<float> restored = dequantized<float>(Nf4Matrix::quantize(largest.view()));
  CHECK(same_bits(elements(restored), elements(largest)));
}

TEST_CASE("wrong shapes and rows out of range are refused") {
  const Nf4Matrix quantised = Nf4Matrix::quantize(random_matrix<float>(4, 6, 8).view());
  Matrix<float> to(4, 6), other(6, 4);
  test::check_throws<std::invalid_argument>([&] { quantised.dequantize(other.view()); },
                                            {"[4, 6]", "[6, 4]", "ask"});
  CHECK(contains(invalid_message([&] { quantised.dequantize(to.view().columns_from(0, 5)); }),
                 "[4, 5]"));
  for (const auto& rows :
       {std::pair<Index, Index>{1, 4}, {-1, 1}, {5, 0}, {0, -1}, {PTRDIFF_MAX, 1}})
    CHECK(contains(invalid_message([&] {
                     quantised.dequantize_rows(rows.first, rows.second,
                                               to.view().rows_from(0, rows.second));
                   }),
                   "rows of a quantised matrix [4, 6]"));
}

TEST_CASE("a moved-from 4-bit matrix is empty") {
  Nf4Matrix from = Nf4Matrix::quantize(random_matrix<float>(4, 6, 8).view());
  const Matrix<float> expected = dequantized<float>(from);
  Nf4Matrix to = std::move(from);
  CHECK(from.size() == 0);
  CHECK(from.rows() == 0);
  const Matrix<float> restored = dequantized<float>(to);
  CHECK(same_bits(elements(restored), elements(expected)));
}

namespace {

// The bits of products with the dequantised matrix, for shapes at the edges of tiles and blocks.
template <class T>
void check_products(InstructionSet set) {
  const Instructions limited(set);
  if (!limited) return;
  std::uint64_t seed = 1;
  for (const auto& [tokens, rows, columns] : {std::array<Index, 3>{1, 1, 1},
                                              {3, 65, 67},
                                              {13, 300, 128},
                                              {50, 33, 2100},
                                              {7, 2500, 96}}) {
    const Nf4Matrix codes =
        Nf4Matrix::quantize(random_matrix<float>(rows, columns, seed += 3).view());
    const Matrix<T> values = dequantized<T>(codes);
    for (const Accumulate mode : {Accumulate::overwrite, Accumulate::add})
      for (const GemmLayout layout : {GemmLayout::nt, GemmLayout::nn}) {
        const bool forward = layout == GemmLayout::nt;
        const Matrix<T> x = random_of<T>(tokens, forward ? columns : rows, seed + 1);
        Matrix<T> y = random_of<T>(tokens, forward ? rows : columns, seed + 2), expected = clone(y);
        codes.multiply<T>(layout, y.view(), x.view(), mode);
        if (forward)
          gemm_nt<T>(expected.view(), x.view(), values.view(), mode);
        else
          gemm_nn<T>(expected.view(), x.view(), values.view(), mode);
        CAPTURE(tokens, rows, columns, forward, static_cast<int>(mode));
        CHECK(same_bits(elements(y), elements(expected)));
      }
  }
}

void check_products_of_all_scalars(InstructionSet set) {
  check_products<float>(set), check_products<double>(set), check_products<dropbp::BFloat16>(set);
}

}  // namespace

TEST_CASE("products with 4-bit weights have the bits of dequantised ones, with the compiler's") {
  check_products_of_all_scalars(InstructionSet::compiled);
}
TEST_CASE("products with 4-bit weights have the bits of dequantised ones, with AVX2") {
  check_products_of_all_scalars(InstructionSet::avx2);
}
TEST_CASE("products with 4-bit weights have the bits of dequantised ones, with AVX-512") {
  check_products_of_all_scalars(InstructionSet::avx512);
}
TEST_CASE("products with 4-bit weights have the bits of dequantised ones, with AVX512_BF16") {
  check_products_of_all_scalars(InstructionSet::avx512_bf16);
}

TEST_CASE("products with 4-bit weights refuse what does not fit") {
  const Nf4Matrix codes = Nf4Matrix::quantize(random_matrix<float>(5, 6, 1).view());
  Matrix<float> y(2, 5), x(2, 6);
  const auto message = [&](GemmLayout layout, MatrixView<float> to, MatrixView<const float> from) {
    return invalid_message([&] { codes.multiply<float>(layout, to, from, Accumulate::overwrite); });
  };
  CHECK(message(GemmLayout::nt, y.view(), x.view()).empty());
  CHECK(message(GemmLayout::nn, x.view(), y.view()).empty());
  for (const auto& wrong :
       {message(GemmLayout::tn, y.view(), x.view()), message(GemmLayout::nn, y.view(), x.view()),
        message(GemmLayout::nt, y.view().rows_from(0, 1), x.view()),
        message(GemmLayout::nt, y.view().columns_from(0, 4), x.view()),
        message(GemmLayout::nt, y.view(), x.view().columns_from(0, 5))})
    CHECK(contains(wrong, "quantised matrix [5, 6]"));
}
