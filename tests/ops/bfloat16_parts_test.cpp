// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The operations other than products and attention in bfloat16: each has the bits that the same
// operation has in float on the same values, rounded once. parts_test.cpp compares float with plain
// formulas.
#include <span>
#include <utility>
#include <vector>

#include "dropbp/ops/adamw.hpp"
#include "dropbp/ops/cross_entropy.hpp"
#include "dropbp/ops/dropout.hpp"
#include "dropbp/ops/elementwise.hpp"
#include "dropbp/ops/embedding.hpp"
#include "dropbp/ops/nf4.hpp"
#include "dropbp/ops/rms_norm.hpp"
#include "dropbp/ops/rope.hpp"
#include "dropbp/ops/swiglu.hpp"
#include "ops/ops_test.hpp"

using namespace dropbp::ops;
using namespace dropbp::test;
using dropbp::BFloat16, dropbp::to_float, dropbp::from_float;

namespace {

// Random values that bfloat16 has.
template <class T>
Matrix<T> random_of(Index rows, Index columns, std::uint64_t seed) {
  const Matrix<float> values = random_matrix<float>(rows, columns, seed);
  Matrix<T> m(rows, columns);
  for (std::size_t i = 0; i < m.size(); ++i)
    m.data()[i] = from_float<T>(to_float(from_float<BFloat16>(values.data()[i])));
  return m;
}

template <class T>
void keep(std::vector<std::uint16_t>& bits, const Matrix<T>& values) {
  for (std::size_t i = 0; i < values.size(); ++i)
    bits.push_back(from_float<BFloat16>(to_float(values.data()[i])).bits);
}

// The results of `compute.operator()<T>(keep)` in both scalars, as bfloat16.
template <class Compute>
void check_same(const Compute& compute) {
  std::vector<std::uint16_t> narrow, wide;
  compute.template operator()<BFloat16>(narrow);
  compute.template operator()<float>(wide);
  REQUIRE(narrow.size() > 0);
  CHECK(narrow == wide);
}

constexpr Index rows = 37, columns = 150;  // neither a multiple of a vector

}  // namespace

TEST_CASE("bfloat16: sums, scales and dropout are rounded once") {
  check_same([]<class T>(std::vector<std::uint16_t>& bits) {
    Matrix<T> x = random_of<T>(rows, columns, 1), y = random_of<T>(rows, columns, 2);
    accumulate<T>(y.view(), x.view());
    keep(bits, y);
    scale<T>(x.view(), 0.3);
    keep(bits, x);
    Matrix<T> z = random_of<T>(rows, columns, 3);
    dropout<T>(z.view(), z.view(), 0.3, MicroStepId{.seed = 1, .step = 2}, 3);
    keep(bits, z);
    set_zero<T>(z.view());
    keep(bits, z);
    copy<T>(z.view(), y.view());
    keep(bits, z);
  });
}

TEST_CASE("bfloat16: rms_norm and its gradients are rounded once") {
  for (const Accumulate mode : {Accumulate::overwrite, Accumulate::add})
    check_same([mode]<class T>(std::vector<std::uint16_t>& bits) {
      const Matrix<T> x = random_of<T>(rows, columns, 1), dy = random_of<T>(rows, columns, 2);
      Parameter<T> w("w", 1, columns);
      copy<T>(w.value(), random_of<T>(1, columns, 3).view());
      Matrix<T> y(rows, columns), again(rows, columns), dx = random_of<T>(rows, columns, 4);
      Matrix<float> rstd(1, rows);
      rms_norm_forward<T>(y.view(), rstd.data(), x.view(), w.value().data, 1e-5);
      rms_norm_recompute<T>(again.view(), x.view(), w.value().data, rstd.data());
      MemoryPool pool;
      rms_norm_backward<T>(dx.view(), mode, dy.view(), x.view(), w, rstd.data(), pool);
      Matrix<T> dw(1, columns);
      copy<T>(dw.view(), w.gradient());
      keep(bits, y), keep(bits, again), keep(bits, dx), keep(bits, dw), keep(bits, rstd);
    });
}

TEST_CASE("bfloat16: the rotation, SwiGLU and its gradient are rounded once") {
  check_same([]<class T>(std::vector<std::uint16_t>& bits) {
    Matrix<T> x = random_of<T>(rows, 3 * 10, 1);
    rope<T>(x.view(), RopeTable<T>(64, 10), 2, rows, Rotation::forward);
    keep(bits, x);
    const Matrix<T> gate_up = random_of<T>(rows, 2 * columns, 2);
    Matrix<T> out(rows, columns), grad(rows, 2 * columns), both = random_of<T>(rows, columns, 3);
    swiglu_forward<T>(out.view(), gate_up.view());
    swiglu_backward<T>(grad.view(), both.view(), gate_up.view());
    keep(bits, out), keep(bits, grad), keep(bits, both);
  });
}

TEST_CASE("bfloat16: the loss is computed in float and its gradient is rounded once") {
  check_same([]<class T>(std::vector<std::uint16_t>& bits) {
    Matrix<T> logits = random_of<T>(rows, 700, 1);
    std::vector<std::int32_t> targets;
    for (Index i = 0; i < rows; ++i) targets.push_back(i == 5 ? -100 : static_cast<int>(17 * i));
    std::vector<double> losses(static_cast<std::size_t>(rows));
    cross_entropy_rows<T>(logits.view(), losses.data(), targets.data(), -100, 36.0, true);
    keep(bits, logits);
    for (const double loss : losses)
      bits.push_back(from_float<BFloat16>(static_cast<float>(loss)).bits);
  });
}

TEST_CASE("bfloat16: the gradient of an embedding adds in float and is rounded once") {
  std::vector<std::int32_t> tokens;
  for (int i = 0; i < 400; ++i) tokens.push_back(i % 7 == 0 ? 3 : i % 11);
  check_same([&]<class T>(std::vector<std::uint16_t>& bits) {
    Parameter<T> w("w", 13, columns);
    copy<T>(w.value(), random_of<T>(13, columns, 1).view());
    Matrix<T> out(400, columns), gradient(13, columns);
    embedding_forward<T>(out.view(), tokens, w);
    embedding_backward<T>(random_of<T>(400, columns, 2).view(), tokens, w);
    copy<T>(gradient.view(), w.gradient());
    keep(bits, out), keep(bits, gradient);
  });
}

TEST_CASE("bfloat16: 4-bit weights are expanded in float and rounded once") {
  const Nf4Matrix codes = Nf4Matrix::quantize(random_matrix<float>(rows, columns + 1, 1).view());
  check_same([&]<class T>(std::vector<std::uint16_t>& bits) {
    Matrix<T> values(rows, columns + 1);
    codes.dequantize(values.view());
    keep(bits, values);
  });
}

TEST_CASE("bfloat16: AdamW's masters are the values of a float optimizer, and the values follow") {
  Parameter<BFloat16> narrow("w", 3, columns);
  Parameter<float> wide("w", 3, columns);
  copy<BFloat16>(narrow.value(), random_of<BFloat16>(3, columns, 1).view());
  copy<float>(wide.value(), random_of<float>(3, columns, 1).view());
  AdamW<BFloat16> narrow_optimizer({&narrow});
  AdamW<float> wide_optimizer({&wide});
  for (std::uint64_t step = 0; step < 5; ++step) {
    narrow.drop_gradient(), wide.drop_gradient();
    narrow.begin_gradient(), wide.begin_gradient();
    copy<BFloat16>(narrow.gradient(), random_of<BFloat16>(3, columns, 10 + step).view());
    copy<float>(wide.gradient(), random_of<float>(3, columns, 10 + step).view());
    CHECK(squared_gradient_norms<BFloat16>(narrow_optimizer.parameters()) ==
          squared_gradient_norms<float>(wide_optimizer.parameters()));
    narrow_optimizer.step(0.5), wide_optimizer.step(0.5);
  }
  const Matrix<float>& master = narrow_optimizer.state(0).master;
  REQUIRE(master.size() == wide.size());
  for (std::size_t i = 0; i < master.size(); ++i) {
    REQUIRE(master.data()[i] == wide.value().data[i]);
    REQUIRE(narrow.value().data[i].bits == from_float<BFloat16>(master.data()[i]).bits);
  }
}
