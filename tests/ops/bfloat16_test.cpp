// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Products of bfloat16 matrices: compared with plain loops in double, for each set of instructions,
// and with equal bits for any number of threads and any position.
#include <array>
#include <limits>

#include "dropbp/ops/gemm.hpp"
#include "ops/ops_test.hpp"
#include "support/worst.hpp"

using namespace dropbp::ops;
using namespace dropbp::test;
using dropbp::BFloat16, dropbp::to_float, dropbp::from_float;

namespace {

Matrix<BFloat16> random_bfloat16(Index rows, Index columns, std::uint64_t seed) {
  const Matrix<float> values = random_matrix<float>(rows, columns, seed);
  Matrix<BFloat16> m(rows, columns);
  for (std::size_t i = 0; i < m.size(); ++i) m.data()[i] = from_float<BFloat16>(values.data()[i]);
  return m;
}

double value(BFloat16 x) { return static_cast<double>(to_float(x)); }

// Operands of C [m, n] with depth k. Rows have a gap between them.
struct Operands {
  GemmLayout layout;
  Matrix<BFloat16> a, b;
  MatrixView<const BFloat16> a_view, b_view;
  Operands(GemmLayout kind, Index m, Index n, Index k, std::uint64_t seed) : layout(kind) {
    const bool a_across = kind == GemmLayout::tn, b_along = kind == GemmLayout::nt;
    a = random_bfloat16(a_across ? k : m, (a_across ? m : k) + 3, seed);
    b = random_bfloat16(b_along ? n : k, (b_along ? k : n) + 1, seed + 1);
    a_view = a.view().columns_from(1, a.columns() - 3);
    b_view = b.view().columns_from(0, b.columns() - 1);
  }
  double a_at(Index i, Index p) const {
    return value(layout == GemmLayout::tn ? a_view.row(p)[i] : a_view.row(i)[p]);
  }
  double b_at(Index p, Index j) const {
    return value(layout == GemmLayout::nt ? b_view.row(j)[p] : b_view.row(p)[j]);
  }
  void multiply(MatrixView<BFloat16> c, Accumulate mode) const {
    if (layout == GemmLayout::nt) gemm_nt(c, a_view, b_view, mode);
    if (layout == GemmLayout::nn) gemm_nn(c, a_view, b_view, mode);
    if (layout == GemmLayout::tn) gemm_tn(c, a_view, b_view, mode);
  }
};

constexpr GemmLayout layouts[] = {GemmLayout::nt, GemmLayout::nn, GemmLayout::tn};

// Odd depths, edges of tiles, and depths of more than one block, in all engines.
const std::array<std::array<Index, 3>, 16> shapes{{{1, 1, 1},
                                                   {1, 1, 701},
                                                   {1, 97, 5},
                                                   {97, 1, 5},
                                                   {12, 32, 8},
                                                   {13, 33, 9},
                                                   {11, 31, 7},
                                                   {2, 3, 300},
                                                   {24, 64, 256},
                                                   {65, 63, 513},
                                                   {191, 193, 65},
                                                   {3, 4200, 3},
                                                   {13, 5, 4097},
                                                   {50, 70, 2049},
                                                   {4100, 3, 33},
                                                   {2050, 2, 2100}}};

void compare_with_plain_loops(InstructionSet set) {
  const Instructions limited(set);
  if (!limited) return;
  std::uint64_t seed = 1;
  for (const auto& [m, n, k] : shapes)
    for (const GemmLayout layout : layouts)
      for (const Accumulate mode : {Accumulate::overwrite, Accumulate::add}) {
        const Operands operands(layout, m, n, k, seed += 2);
        Matrix<BFloat16> c = random_bfloat16(m, n + 2, seed + 1);
        const Matrix<BFloat16> before = clone(c);
        operands.multiply(c.view().columns_from(1, n), mode);
        double worst = 0;
        for (Index i = 0; i < m; ++i) {
          // The columns beside the view do not change.
          REQUIRE(c.row(i)[0].bits == before.row(i)[0].bits);
          REQUIRE(c.row(i)[n + 1].bits == before.row(i)[n + 1].bits);
          for (Index j = 0; j < n; ++j) {
            double expected = mode == Accumulate::add ? value(before.row(i)[j + 1]) : 0,
                   size = std::abs(expected);
            for (Index p = 0; p < k; ++p) {
              const double term = operands.a_at(i, p) * operands.b_at(p, j);
              expected += term, size += std::abs(term);
            }
            // The sum in float, as in the test of float products, then one rounding.
            const double bound = std::abs(expected) * 0x1p-8 * (1 + 0x1p-8) +
                                 17 * size * std::numeric_limits<float>::epsilon() / 2;
            const double error = std::abs(value(c.row(i)[j + 1]) - expected);
            keep_worst(worst, bound > 0 ? error / bound : error);
          }
        }
        CAPTURE(m, n, k, static_cast<int>(layout), static_cast<int>(mode));
        CHECK(worst <= 1);
      }
}

}  // namespace

TEST_CASE("bfloat16 products agree with plain loops, with the compiler's instructions") {
  compare_with_plain_loops(InstructionSet::compiled);
}
TEST_CASE("bfloat16 products agree with plain loops, with AVX2") {
  compare_with_plain_loops(InstructionSet::avx2);
}
TEST_CASE("bfloat16 products agree with plain loops, with AVX-512") {
  compare_with_plain_loops(InstructionSet::avx512);
}
TEST_CASE("bfloat16 products agree with plain loops, with dot products of bfloat16") {
  compare_with_plain_loops(InstructionSet::avx512_bf16);
}

TEST_CASE("bfloat16 products have the same bits on 1, 2, 3 and 8 threads") {
  const ThreadsGuard guard;
  std::uint64_t seed = 1000;
  for (const auto& [m, n, k] : shapes)
    for (const GemmLayout layout : layouts) {
      const Operands operands(layout, m, n, k, seed += 2);
      std::uint64_t first = 0;
      for (const int threads : thread_counts) {
        use_threads(threads);
        Matrix<BFloat16> c = random_bfloat16(m, n, seed);
        operands.multiply(c.view(), Accumulate::add);
        Hash hash;
        hash.add(elements(c));
        if (threads == 1) first = hash.value();
        CAPTURE(m, n, k, threads);
        CHECK(hash.value() == first);
      }
    }
}

TEST_CASE("an element of a bfloat16 product depends only on its row, its column and the depth") {
  const Index m = 97, n = 83, k = 2601;
  const Operands operands(GemmLayout::nt, m, n, k, 5);
  Matrix<BFloat16> whole(m, n);
  gemm_nt(whole.view(), operands.a_view, operands.b_view);
  for (const auto& [i0, j0, rows, columns] : {std::array<Index, 4>{0, 0, 1, 1},
                                              {5, 7, 1, 83 - 7},
                                              {3, 2, 17, 5},
                                              {96, 82, 1, 1},
                                              {11, 16, 50, 16}}) {
    Matrix<BFloat16> part(rows, columns);
    gemm_nt(part.view(), operands.a_view.rows_from(i0, rows),
            operands.b_view.rows_from(j0, columns));
    for (Index i = 0; i < rows; ++i)
      for (Index j = 0; j < columns; ++j)
        REQUIRE(part.row(i)[j].bits == whole.row(i0 + i)[j0 + j].bits);
  }
}

TEST_CASE("NaN and infinities go through a bfloat16 product") {
  Matrix<BFloat16> a = random_bfloat16(13, 41, 3), b = random_bfloat16(21, 41, 4), c(13, 21);
  a.row(5)[40] = from_float<BFloat16>(std::numeric_limits<float>::quiet_NaN());
  b.row(20)[3] = from_float<BFloat16>(std::numeric_limits<float>::infinity());
  gemm_nt(c.view(), a.view(), b.view());
  for (Index i = 0; i < 13; ++i)
    for (Index j = 0; j < 21; ++j) {
      CAPTURE(i, j);
      CHECK(std::isnan(to_float(c.row(i)[j])) == (i == 5));
      CHECK(std::isinf(to_float(c.row(i)[j])) == (i != 5 && j == 20));
    }
}
