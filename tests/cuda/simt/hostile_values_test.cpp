// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What each operation makes of hostile values and sizes, on the CPU and by the kernels of CUDA. The
// table is docs/hostile_values.md; with DROPBP_WRITE_TABLES=1 this test writes it.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "dropbp/kernels/cuda.hpp"
#include "dropbp/ops/cross_entropy.hpp"
#include "dropbp/ops/dropout.hpp"
#include "dropbp/ops/elementwise.hpp"
#include "dropbp/ops/embedding.hpp"
#include "dropbp/ops/gemm.hpp"
#include "dropbp/ops/rms_norm.hpp"
#include "dropbp/ops/rope.hpp"
#include "dropbp/ops/swiglu.hpp"
#include "support/catch.hpp"
#include "support/emulated.hpp"
#include "support/promise.hpp"

namespace {

using namespace dropbp::ops;
using dropbp::Cpu;
using Values = std::vector<float>;

// An operation from x [rows, columns] to y, whose rows are as many as those of x.
using Run = std::function<Values(const float* x, Index rows, Index columns)>;

template <class B>
struct Operations {
  template <class Op>
  using K = kernels<Op, float, B>;
  using In = MatrixView<const float, B>;
  using Out = MatrixView<float, B>;

  static Values filled(Index rows, Index columns, float first = 0.25f) {
    Values values;
    for (Index i = 0; i < rows * columns; ++i)
      values.push_back(first + static_cast<float>((i * 5) % 7) / 8.0f);
    return values;
  }

  static Values sum(const float* x, Index rows, Index columns) {
    Values y = filled(rows, columns);
    K<op::elementwise>::accumulate(Out(y.data(), rows, columns), In(x, rows, columns));
    return y;
  }
  static Values scale(const float* x, Index rows, Index columns) {
    Values y(x, x + rows * columns);
    K<op::elementwise>::scale(Out(y.data(), rows, columns), 0.5);
    return y;
  }
  static Values dropout_of(const float* x, Index rows, Index columns) {
    Values y = filled(rows, columns);
    K<op::dropout>::run(Out(y.data(), rows, columns), In(x, rows, columns), 0.5, 3, 1, 0);
    return y;
  }
  static Values rotation(const float* x, Index rows, Index columns) {
    Values y(x, x + rows * columns);
    const Index half = columns / 2;
    const Values cosine(static_cast<std::size_t>(8 * half), 0.8f), sine(cosine.size(), 0.6f);
    K<op::rope>::run(Out(y.data(), rows, columns), cosine.data(), sine.data(), half > 0 ? 1 : 0,
                     half, 8, Rotation::forward);
    return y;
  }
  static Values norm(const float* x, Index rows, Index columns) {
    Values y = filled(rows, columns), rstd(static_cast<std::size_t>(rows) + 1);
    const Values w = filled(1, columns);
    K<op::rms_norm>::forward(Out(y.data(), rows, columns), rstd.data(), In(x, rows, columns),
                             w.data(), 1e-5);
    return y;
  }
  // x holds gates; all of `up` is 1.
  static Values gate(const float* x, Index rows, Index columns) {
    Values both, y = filled(rows, columns);
    for (Index i = 0; i < rows; ++i) {
      both.insert(both.end(), x + i * columns, x + (i + 1) * columns);
      both.insert(both.end(), static_cast<std::size_t>(columns), 1.0f);
    }
    K<op::swiglu>::forward(Out(y.data(), rows, columns), In(both.data(), rows, 2 * columns));
    return y;
  }
  // The gradient of the gates.
  static Values gate_gradient(const float* x, Index rows, Index columns) {
    Values both, grad = filled(rows, 2 * columns), above = filled(rows, columns), y;
    for (Index i = 0; i < rows; ++i) {
      both.insert(both.end(), x + i * columns, x + (i + 1) * columns);
      both.insert(both.end(), static_cast<std::size_t>(columns), 1.0f);
    }
    K<op::swiglu>::backward(Out(grad.data(), rows, 2 * columns), Out(above.data(), rows, columns),
                            In(both.data(), rows, 2 * columns));
    for (Index i = 0; i < rows; ++i)
      y.insert(y.end(), grad.begin() + 2 * i * columns, grad.begin() + (2 * i + 1) * columns);
    return y;
  }
  static Values embedding_rows(const float* x, Index rows, Index columns) {
    std::vector<std::int32_t> tokens;
    for (Index i = 0; i < rows; ++i) tokens.push_back(static_cast<std::int32_t>(i));
    Values y = filled(rows, columns);
    K<op::embedding>::forward(Out(y.data(), rows, columns), std::span<const std::int32_t>(tokens),
                              In(x, rows, columns));
    return y;
  }
  static Values loss_gradient(const float* x, Index rows, Index columns) {
    Values y(x, x + rows * columns);
    const std::vector<std::int32_t> targets(static_cast<std::size_t>(rows) + 1, 0);
    std::vector<typename K<op::cross_entropy>::Loss> losses(targets.size());
    K<op::cross_entropy>::run(Out(y.data(), rows, columns), losses.data(), targets.data(), -100,
                              4.0, true);
    return y;
  }
  static Values product(const float* x, Index rows, Index columns) {
    Values y = filled(rows, columns);
    const Values b = filled(columns, columns);
    K<op::gemm>::run(GemmLayout::nt, Out(y.data(), rows, columns), In(x, rows, columns),
                     In(b.data(), columns, columns), Accumulate::overwrite);
    return y;
  }
};

constexpr Index rows = 3, columns = 6, at_row = 1, at_column = 2;

// What became of one hostile element: which outputs are not finite.
std::string outcome_of(const Run& run, float hostile) {
  Values x = Operations<Cpu>::filled(rows, columns, -0.5f);
  x[at_row * columns + at_column] = hostile;
  const Values y = run(x.data(), rows, columns);
  std::size_t nans = 0, infinities = 0;
  bool in_element = true, in_row = true;
  for (Index i = 0; i < rows * columns; ++i) {
    const float value = y[static_cast<std::size_t>(i)];
    if (std::isfinite(value)) continue;
    (std::isnan(value) ? nans : infinities) += 1;
    in_row = in_row && i / columns == at_row;
    in_element = in_element && i == at_row * columns + at_column;
  }
  if (nans + infinities == 0) return "f";
  const std::string what = nans == 0 ? "inf" : infinities == 0 ? "NaN" : "NaN and inf";
  return what + (in_element ? "" : in_row ? ", row" : ", beyond");
}

std::string outcome_of_size(const Run& run, Index of_rows, Index of_columns) {
  const Values x = Operations<Cpu>::filled(of_rows + 1, of_columns, -0.5f);
  const Values y = run(x.data(), of_rows, of_columns);
  for (const float value : y)
    if (!std::isfinite(value)) return "not finite";
  return y.empty() ? "none" : "f";
}

std::string outcome_of_misaligned(const Run& run) {
  const Values x = Operations<Cpu>::filled(rows, columns, -0.5f);
  Values shifted{0.0f};
  shifted.insert(shifted.end(), x.begin(), x.end());
  return run(x.data(), rows, columns) == run(shifted.data() + 1, rows, columns) ? "same" : "other";
}

using limits = std::numeric_limits<float>;
constexpr struct {
  const char* name;
  float value;
} hostile[] = {{"NaN", limits::quiet_NaN()},       {"inf", limits::infinity()},
               {"-inf", -limits::infinity()},      {"-0", -0.0f},
               {"denormal", limits::denorm_min()}, {"FLT_MAX", limits::max()}};

std::string row_of(const std::string& name, const Run& run) {
  std::string row = "|";
  const auto add = [&row](const std::string& cell) { row.append(" ").append(cell).append(" |"); };
  add(name);
  for (const auto& one : hostile) add(outcome_of(run, one.value));
  add(outcome_of_size(run, 0, columns));
  add(outcome_of_size(run, 1, 2));
  add(outcome_of_misaligned(run));
  row += "\n";
  return row;
}

// A row for both backends if they agree.
std::string rows_of(const char* name, const Run& cpu, const Run& cuda) {
  const std::string row = row_of(name, cpu);
  if (row == row_of(name, cuda)) return row;
  return row_of(name + std::string(", CPU"), cpu) + row_of(name + std::string(", CUDA"), cuda);
}

std::string page() {
  using C = Operations<Cpu>;
  using D = Operations<Emulated>;
  std::string text = R"(<!-- SPDX-FileCopyrightText: 2026 The dropbp authors -->
<!-- SPDX-License-Identifier: MIT -->

# What becomes of hostile values?

One element of a matrix of ordinary numbers has the value at the top. The table says which outputs
are not finite: the element's own, or (`row`) others in its row; `f`: all are finite. No operation
checks values: NaN and infinity are handed on, so that the loss or the norm of the gradients shows
them, and a trainer stops there. Rows are those of the CPU and of CUDA's kernels, on the emulator;
where they differ there are two. `tests/cuda/simt/hostile_values_test.cpp` writes this page, with
DROPBP_WRITE_TABLES=1, and holds it.

| operation |)";
  for (const auto& one : hostile) text.append(" ").append(one.name).append(" |");
  text += " no rows | 1 row of 2 | misaligned |\n| --- |";
  for (std::size_t i = 0; i < std::size(hostile) + 3; ++i) text += " --- |";
  text += "\n";
  text += rows_of("y += x", C::sum, D::sum);
  text += rows_of("x * 0.5", C::scale, D::scale);
  text += rows_of("dropout", C::dropout_of, D::dropout_of);
  text += rows_of("rotation", C::rotation, D::rotation);
  text += rows_of("RMSNorm", C::norm, D::norm);
  text += rows_of("SwiGLU, gate", C::gate, D::gate);
  text += rows_of("SwiGLU, its gradient", C::gate_gradient, D::gate_gradient);
  text += rows_of("embedding", C::embedding_rows, D::embedding_rows);
  text += rows_of("loss, gradient of logits", C::loss_gradient, D::loss_gradient);
  text += row_of("product, CPU", C::product);
  return text;
}

}  // namespace

TEST_CASE("hostile values have the outcomes of docs/hostile_values.md") {
  const std::string path = std::string(DROPBP_TEST_DATA) + "/../../docs/hostile_values.md";
  const std::string now = page();
  if (std::getenv("DROPBP_WRITE_TABLES") != nullptr) std::ofstream(path) << now;
  std::ifstream stream(path);
  const std::string documented{std::istreambuf_iterator<char>(stream), {}};
  CHECK(now == documented);
  int outcomes = 0, deviations = 0;
  for (std::size_t i = 0; i < now.size(); ++i) {
    outcomes += now[i] == '|';
    deviations += i >= documented.size() || now[i] != documented[i];
  }
  dropbp_test::promise(5, "cells=%d deviations=%d", outcomes, deviations);
}
