// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Attention in bfloat16, whose products round their operands: compared with plain loops in double,
// within the error that these roundings can cause, for each set of instructions.
#include <algorithm>
#include <cmath>
#include <vector>

#include "dropbp/ops/attention.hpp"
#include "ops/ops_test.hpp"
#include "support/worst.hpp"

using namespace dropbp::ops;
using namespace dropbp::test;
using dropbp::BFloat16, dropbp::to_float, dropbp::from_float;

namespace {

constexpr double unit = 0x1p-8;       // half of the distance between neighbours, relative
constexpr double of_float = 0x1p-17;  // generous: sums of some hundred terms, and exp

double value(BFloat16 x) { return static_cast<double>(to_float(x)); }

Matrix<BFloat16> random_bfloat16(Index rows, Index columns, std::uint64_t seed) {
  const Matrix<float> values = random_matrix<float>(rows, columns, seed);
  Matrix<BFloat16> m(rows, columns);
  for (std::size_t i = 0; i < m.size(); ++i) m.data()[i] = from_float<BFloat16>(values.data()[i]);
  return m;
}

// Expected sums, and the most that their errors may be before they are rounded.
struct Sums {
  Matrix<double> value, error;
  Sums(Index rows, Index columns) : value(rows, columns), error(rows, columns) {
    std::fill_n(value.data(), value.size(), 0.0);
    std::fill_n(error.data(), error.size(), 0.0);
  }
  void add(Index row, Index column, double term, double error_of_term) {
    value.row(row)[column] += term, error.row(row)[column] += error_of_term;
  }
  // The largest error of `given` as a share of what is allowed.
  double worst(const Matrix<BFloat16>& given) const {
    double result = 0;
    for (Index i = 0; i < given.rows(); ++i)
      for (Index j = 0; j < given.columns(); ++j) {
        const double expected = value.row(i)[j], before = error.row(i)[j];
        const double bound = before + unit * (std::abs(expected) + before);
        const double wrong = std::abs(::value(given.row(i)[j]) - expected);
        keep_worst(result, bound > 0 ? wrong / bound : wrong);
      }
    return result;
  }
};

struct Case {
  SequenceShape shape;
  HeadLayout layout;
  Matrix<BFloat16> qkv, grad_o, o, grad_qkv;
  Matrix<float> lse;

  Case(SequenceShape sequences, HeadLayout heads)
      : shape(sequences),
        layout(heads),
        qkv(random_bfloat16(shape.tokens(), layout.qkv_width(), 1)),
        grad_o(random_bfloat16(shape.tokens(), layout.q_width(), 2)),
        o(shape.tokens(), layout.q_width()),
        grad_qkv(shape.tokens(), layout.qkv_width()),
        lse(shape.batch * layout.heads, shape.sequence) {}

  void run() {
    attention_forward<BFloat16>(o.view(), lse.data(), qkv.view(), layout, shape);
    attention_backward<BFloat16>(grad_qkv.view(), grad_o.view(), qkv.view(), o.view(), lse.data(),
                                 layout, shape);
  }

  void check() {
    run();
    Sums outputs(o.rows(), o.columns()), gradients(qkv.rows(), qkv.columns());
    for (Index b = 0; b < shape.batch; ++b)
      for (Index h = 0; h < layout.heads; ++h)
        for (Index i = 0; i < shape.sequence; ++i) add_query(outputs, gradients, b, h, i);
    CHECK(outputs.worst(o) <= 1);
    CHECK(gradients.worst(grad_qkv) <= 1);
  }

  // The terms of one query of one head. The backward pass takes the rounded o.
  void add_query(Sums& outputs, Sums& gradients, Index b, Index h, Index i) const {
    const Index d = layout.head_size, row = b * shape.sequence + i, q = h * d,
                k = layout.q_width() + h / layout.group() * d, v = k + layout.kv_width();
    const Index first = layout.window == 0 ? 0 : std::max(Index(0), i + 1 - layout.window);
    const double scale = 1 / std::sqrt(static_cast<double>(d));
    const auto dot = [d](const BFloat16* x, const BFloat16* y, bool magnitudes) {
      double sum = 0;
      for (Index c = 0; c < d; ++c)
        sum += magnitudes ? std::abs(value(x[c]) * value(y[c])) : value(x[c]) * value(y[c]);
      return sum;
    };
    double denominator = 0;
    for (Index j = first; j <= i; ++j)
      denominator +=
          std::exp(scale * dot(qkv.row(row) + q, qkv.row(b * shape.sequence + j) + k, false));
    CHECK(std::abs(static_cast<double>(lse.row(b * layout.heads + h)[i]) - std::log(denominator)) <=
          1e-5);
    const double delta = dot(o.row(row) + q, grad_o.row(row) + q, false),
                 delta_size = dot(o.row(row) + q, grad_o.row(row) + q, true);
    for (Index j = first; j <= i; ++j) {
      const Index key = b * shape.sequence + j;
      const double p =
          std::exp(scale * dot(qkv.row(row) + q, qkv.row(key) + k, false)) / denominator;
      const double ds = p * scale * (dot(grad_o.row(row) + q, qkv.row(key) + v, false) - delta);
      const double ds_size =
          p * scale * (dot(grad_o.row(row) + q, qkv.row(key) + v, true) + delta_size);
      const double p_error = (unit + of_float) * p,
                   ds_error = unit * std::abs(ds) + of_float * ds_size;
      for (Index c = 0; c < d; ++c) {
        const double of_q = value(qkv.row(row)[q + c]), of_k = value(qkv.row(key)[k + c]),
                     of_v = value(qkv.row(key)[v + c]), of_o = value(grad_o.row(row)[q + c]);
        outputs.add(row, q + c, p * of_v, p_error * std::abs(of_v));
        gradients.add(key, v + c, p * of_o, p_error * std::abs(of_o));
        gradients.add(row, q + c, ds * of_k, ds_error * std::abs(of_k));
        gradients.add(key, k + c, ds * of_q, ds_error * std::abs(of_q));
      }
    }
  }
};

// Several blocks of queries and of keys, parts of the keys, and a window.
const std::pair<SequenceShape, HeadLayout> cases[] = {{{2, 55}, {4, 2, 8}},
                                                      {{1, 1}, {1, 1, 2}},
                                                      {{1, 500}, {2, 1, 6}},
                                                      {{3, 130}, {3, 3, 16}},
                                                      {{1, 450}, {2, 2, 8, 70}}};

void compare_with_plain_loops(InstructionSet set) {
  const Instructions limited(set);
  if (!limited) return;
  for (const auto& [shape, layout] : cases) {
    CAPTURE(shape.batch, shape.sequence, layout.heads, layout.head_size, layout.window);
    Case(shape, layout).check();
  }
}

}  // namespace

TEST_CASE("bfloat16 attention agrees with plain loops, with the compiler's instructions") {
  compare_with_plain_loops(InstructionSet::compiled);
}
TEST_CASE("bfloat16 attention agrees with plain loops, with AVX2") {
  compare_with_plain_loops(InstructionSet::avx2);
}
TEST_CASE("bfloat16 attention agrees with plain loops, with AVX-512") {
  compare_with_plain_loops(InstructionSet::avx512);
}
TEST_CASE("bfloat16 attention agrees with plain loops, with dot products of bfloat16") {
  compare_with_plain_loops(InstructionSet::avx512_bf16);
}

TEST_CASE("bfloat16 attention has the same bits on 1, 2, 3 and 8 threads") {
  const ThreadsGuard guard;
  for (const auto& [shape, layout] : cases) {
    std::uint64_t first = 0;
    for (const int threads : thread_counts) {
      use_threads(threads);
      Case one(shape, layout);
      one.run();
      Hash hash;
      hash.add(elements(one.o)), hash.add(elements(one.lse)), hash.add(elements(one.grad_qkv));
      if (threads == 1) first = hash.value();
      CAPTURE(shape.sequence, threads);
      CHECK(hash.value() == first);
    }
  }
}
