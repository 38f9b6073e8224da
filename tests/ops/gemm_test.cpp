// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The matrix products: compared with plain loops, and with equal bits for any number of threads,
// any position and any size of the other dimensions.
#include "dropbp/ops/gemm.hpp"

#include <array>
#include <utility>
#include <vector>

#include "ops/ops_test.hpp"
#include "support/promise.hpp"
#include "support/worst.hpp"

using namespace dropbp::ops;
using namespace dropbp::test;

namespace {

enum class Kind { nt, nn, tn };

template <class T>
void multiply(Kind kind, MatrixView<T> c, MatrixView<const T> a, MatrixView<const T> b,
              Accumulate mode) {
  if (kind == Kind::nt) gemm_nt(c, a, b, mode);
  if (kind == Kind::nn) gemm_nn(c, a, b, mode);
  if (kind == Kind::tn) gemm_tn(c, a, b, mode);
}

// Operands of C [m, n] with depth k. Rows have a small gap between them.
template <class T>
struct Operands {
  Matrix<T> a, b;
  MatrixView<const T> a_view, b_view;
  Operands(Kind kind, Index m, Index n, Index k, std::uint64_t seed) {
    const Index a_rows = kind == Kind::tn ? k : m, a_columns = kind == Kind::tn ? m : k;
    const Index b_rows = kind == Kind::nt ? n : k, b_columns = kind == Kind::nt ? k : n;
    a = random_matrix<T>(a_rows, a_columns + 3, seed),
    b = random_matrix<T>(b_rows, b_columns + 1, seed + 1);
    a_view = a.view().columns_from(1, a_columns), b_view = b.view().columns_from(0, b_columns);
  }
  double a_at(Kind kind, Index i, Index p) const {
    return static_cast<double>(kind == Kind::tn ? a_view.row(p)[i] : a_view.row(i)[p]);
  }
  double b_at(Kind kind, Index p, Index j) const {
    return static_cast<double>(kind == Kind::nt ? b_view.row(j)[p] : b_view.row(p)[j]);
  }
};

const std::array<std::array<Index, 3>, 24> shapes{
    {{1, 1, 1},       {1, 1, 700},   {1, 97, 5},     {97, 1, 5},     {6, 16, 8},
     {7, 17, 9},      {5, 15, 7},    {2, 3, 300},    {12, 32, 256},  {13, 33, 257},
     {64, 64, 64},    {65, 63, 513}, {100, 7, 1000}, {7, 100, 31},   {191, 193, 65},
     {193, 48, 255},  {385, 31, 17}, {3, 4200, 3},   {50, 4099, 20}, {256, 256, 100},
     {200, 120, 770}, {31, 29, 23},  {1, 300, 300},  {300, 1, 300}}};

template <class T>
void compare_with_plain_loops() {
  std::uint64_t seed = 1;
  double worst = 0;
  for (const auto& [m, n, k] : shapes)
    for (const Kind kind : {Kind::nt, Kind::nn, Kind::tn})
      for (const Accumulate mode : {Accumulate::overwrite, Accumulate::add}) {
        const Operands<T> operands(kind, m, n, k, seed += 2);
        Matrix<T> c = random_matrix<T>(m, n + 2, seed + 1);
        const Matrix<T> before = clone(c);
        multiply<T>(kind, c.view().columns_from(1, n), operands.a_view, operands.b_view, mode);
        for (Index i = 0; i < m; ++i) {
          // The columns beside the view do not change.
          REQUIRE(c.row(i)[0] == before.row(i)[0]);
          REQUIRE(c.row(i)[n + 1] == before.row(i)[n + 1]);
          for (Index j = 0; j < n; ++j) {
            double expected =
                       mode == Accumulate::add ? static_cast<double>(before.row(i)[j + 1]) : 0,
                   size = std::abs(expected);
            for (Index p = 0; p < k; ++p) {
              const double term = operands.a_at(kind, i, p) * operands.b_at(kind, p, j);
              expected += term, size += std::abs(term);
            }
            const double error = std::abs(static_cast<double>(c.row(i)[j + 1]) - expected);
            keep_worst(worst, size > 0 ? error / size : error);
          }
        }
      }
  // |error| <= (k + 1) u sum |a b|. Rounding errors are random, so the test uses the smaller bound
  // of k = 16.
  const double bound = 17 * static_cast<double>(std::numeric_limits<T>::epsilon()) / 2;
  CAPTURE(worst, bound);
  CHECK(worst <= bound);
}

template <class T>
void compare_threads() {
  const ThreadsGuard guard;
  std::uint64_t seed = 1000;
  for (const auto& [m, n, k] : shapes)
    for (const Kind kind : {Kind::nt, Kind::nn, Kind::tn}) {
      const Operands<T> operands(kind, m, n, k, seed += 2);
      std::uint64_t first = 0;
      for (const int threads : thread_counts) {
        use_threads(threads);
        Matrix<T> c = random_matrix<T>(m, n, seed);
        multiply<T>(kind, c.view(), operands.a_view, operands.b_view, Accumulate::add);
        Hash hash;
        hash.add(elements(c));
        if (threads == 1) first = hash.value();
        CAPTURE(m, n, k, threads);
        CHECK(hash.value() == first);
      }
    }
}

}  // namespace

TEST_CASE("products agree with plain loops") {
  compare_with_plain_loops<float>();
  compare_with_plain_loops<double>();
}

TEST_CASE("random shapes: products of integers have the bits of plain loops") {
  // Every sum of up to 70 products of up to 100 is exact in float.
  constexpr int count = 500;
  int differing = 0;
  for (int number = 0; number < count; ++number) {
    std::mt19937_64 random(static_cast<std::uint64_t>(number));
    const auto below = [&](std::uint64_t bound) { return static_cast<Index>(random() % bound); };
    const Index m = 1 + below(40), n = 1 + below(40), k = 1 + below(70);
    const Kind kind = std::array{Kind::nt, Kind::nn, Kind::tn}[random() % 3];
    const Accumulate mode = random() % 2 == 0 ? Accumulate::overwrite : Accumulate::add;
    CAPTURE(number, m, n, k, static_cast<int>(kind), mode == Accumulate::add);
    Operands<float> operands(kind, m, n, k, 1);
    Matrix<float> c(m, n);
    std::uniform_int_distribution<int> integer(-100, 100);
    for (Matrix<float>* matrix : {&operands.a, &operands.b, &c})
      for (float& value : elements(*matrix)) value = static_cast<float>(integer(random));
    const Matrix<float> before = clone(c);
    multiply<float>(kind, c.view(), operands.a_view, operands.b_view, mode);
    bool differs = false;
    for (Index i = 0; i < m; ++i)
      for (Index j = 0; j < n; ++j) {
        double sum = mode == Accumulate::add ? static_cast<double>(before.row(i)[j]) : 0;
        for (Index p = 0; p < k; ++p) sum += operands.a_at(kind, i, p) * operands.b_at(kind, p, j);
        differs = differs || static_cast<double>(c.row(i)[j]) != sum;
      }
    CHECK_FALSE(differs);
    differing += differs;
  }
  dropbp_test::promise(4, "ops=1 least_shapes_an_op=%d differing=%d", count, differing);
}

TEST_CASE("products have the same bits on 1, 2, 3 and 8 threads") {
  compare_threads<float>();
  compare_threads<double>();
}

#if !defined(DROPBP_EIGEN_PRODUCTS)  // Eigen does not promise it
TEST_CASE("an element of a product depends only on its row, its column and the depth") {
  const Index m = 97, n = 83, k = 600;
  const Operands<float> operands(Kind::nt, m, n, k, 5);
  Matrix<float> whole(m, n);
  gemm_nt(whole.view(), operands.a_view, operands.b_view);
  for (const auto& [i0, j0, rows, columns] : {std::array<Index, 4>{0, 0, 1, 1},
                                              {5, 7, 1, 83 - 7},
                                              {3, 2, 17, 5},
                                              {96, 82, 1, 1},
                                              {11, 16, 50, 16}}) {
    Matrix<float> part(rows, columns);
    gemm_nt(part.view(), operands.a_view.rows_from(i0, rows),
            operands.b_view.rows_from(j0, columns));
    for (Index i = 0; i < rows; ++i)
      for (Index j = 0; j < columns; ++j) REQUIRE(part.row(i)[j] == whole.row(i0 + i)[j0 + j]);
  }
}

#endif

TEST_CASE("products of depth 0 and of empty matrices") {
  Matrix<float> c = random_matrix<float>(3, 5, 1), a(3, 0), b(5, 0);
  const Matrix<float> before = clone(c);
  gemm_nt(c.view(), a.view(), b.view(), Accumulate::add);
  CHECK(same_bits(elements(std::as_const(c)), elements(before)));
  gemm_nt(c.view(), a.view(), b.view());
  for (const float value : elements(c)) CHECK(value == 0.0f);
  Matrix<float> nothing(0, 5), no_rows(0, 4);
  gemm_nn(nothing.view(), no_rows.view(), random_matrix<float>(4, 5, 2).view());
}

TEST_CASE("NaN, infinities and signed zeros go through a product as IEEE 754 says") {
  for (const Index bad_row : {0, 5, 12}) {
    Matrix<float> a = random_matrix<float>(13, 40, 3), b = random_matrix<float>(21, 40, 4),
                  c(13, 21);
    a.row(bad_row)[17] = std::numeric_limits<float>::quiet_NaN();
    b.row(20)[3] = std::numeric_limits<float>::infinity();
    gemm_nt(c.view(), a.view(), b.view());
    for (Index i = 0; i < 13; ++i)
      for (Index j = 0; j < 21; ++j) {
        CAPTURE(i, j);
        CHECK(std::isnan(c.row(i)[j]) == (i == bad_row));
        CHECK(std::isinf(c.row(i)[j]) == (i != bad_row && j == 20));
      }
  }
}

TEST_CASE("a product with sizes that do not fit throws") {
  Matrix<float> c(3, 4), a(3, 5), b(4, 6);
  const std::string message = invalid_message([&] { gemm_nt(c.view(), a.view(), b.view()); });
  CAPTURE(message);
  CHECK(contains(message, "A B^T"));
  CHECK(contains(message, "A [3, 5]"));
  CHECK(contains(message, "B [4, 6]"));
}

#if defined(DROPBP_BLOCKED_PRODUCTS)
TEST_CASE("packing a panel of B writes into that panel alone, also for narrow vectors") {
  constexpr Index width = 4, past = 8;
  const Matrix<double> source = random_matrix<double>(20, 20, 1);
  for (const auto& [along, depth] : {std::pair<bool, Index>{false, 16}, {true, 16}, {true, 19}})
    for (Index count = 1; count <= width; ++count) {
      std::vector<double> panel(static_cast<std::size_t>(width * depth + past), 7.0);
      detail::pack_panel<detail::SingleWords<double>, width, false>(
          source.data(), source.columns(), along, depth, count, panel.data());
      CAPTURE(along, depth, count);
      for (Index q = 0; q < depth; ++q)
        for (Index j = 0; j < width; ++j)
          REQUIRE(panel[static_cast<std::size_t>(q * width + j)] ==
                  (j < count ? (along ? source.row(j)[q] : source.row(q)[j]) : 0.0));
      for (Index i = 0; i < past; ++i)
        REQUIRE(panel[static_cast<std::size_t>(width * depth + i)] == 7.0);
    }
}
#endif
