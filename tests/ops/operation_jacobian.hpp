// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Jacobians of operations on Matrix<double>: what the tests of all ops share.
#pragma once

#include "support/jacobian.hpp"

#include <cstdio>
#include <utility>

#include "dropbp/layer.hpp"
#include "dropbp/ops/parameter.hpp"
#include "ops/ops_test.hpp"
#include "support/promise.hpp"

namespace dropbp::test {

using namespace dropbp::ops;

inline constexpr double bound = 1e-7;

inline Variable variable_of(Parameter<double>& parameter) {
  return {parameter.parts().front().name, elements(parameter.value()), [&parameter] {
            if (!parameter.has_gradient()) return std::vector<double>();
            return as_doubles<double>(
                elements(static_cast<const Parameter<double>&>(parameter).gradient()));
          }};
}

// Runs the check and prints the worst figure of a test case.
class Report {
 public:
  explicit Report(const char* op) : op_(op) {}
  ~Report() {
    std::printf("jacobian %-18s %3d shapes, worst scaled error %.2e\n", op_, shapes_, worst_);
    dropbp_test::promise(1, "ops=1 least_shapes=%d worst_scaled_error=%.2e", shapes_, worst_);
  }
  void add(const JacobianError& error) {
    CAPTURE(op_, error.variable, error.scaled);
    CHECK(error.scaled <= bound);
    ++shapes_;
    if (!(error.scaled <= worst_)) worst_ = error.scaled;
  }
  int shapes() const { return shapes_; }

 private:
  const char* op_;
  int shapes_ = 0;
  double worst_ = 0;
};

// An op from x to y with one row-wise backward function.
template <class Forward, class Backward>
JacobianError check_rows(Matrix<double>& x, Index outputs, const Forward& forward,
                         const Backward& backward, std::vector<Variable> more = {}) {
  MemoryPool poisoned(PoolFill::nan);
  Matrix<double> y(x.rows(), outputs, poisoned), dx(x.rows(), x.columns(), poisoned);
  std::vector<Variable> variables{
      {"x", elements(x), [&] { return as_doubles<double>(elements(dx)); }}};
  for (auto& variable : more) variables.push_back(std::move(variable));
  return jacobian_error(
      variables,
      [&] {
        forward(y.view());
        return as_doubles<double>(elements(y));
      },
      [&](std::span<const double> grad_output) {
        Matrix<double> dy(x.rows(), outputs);
        std::copy(grad_output.begin(), grad_output.end(), dy.data());
        backward(dx.view(), dy.view());
      });
}

// A branch or another Operation on Matrix<double>.
template <class Op, class... Args>
JacobianError check_operation(Op& op, std::vector<Parameter<double>*> parameters, Matrix<double>& x,
                              const Args&... args) {
  typename Op::Saved saved;
  Matrix<double> dx;
  std::vector<Variable> variables{
      {"x", elements(x), [&] { return as_doubles<double>(elements(dx)); }}};
  for (Parameter<double>* parameter : parameters) variables.push_back(variable_of(*parameter));
  return jacobian_error(
      variables,
      [&] {
        const Matrix<double> y = op.forward(x, &saved, args...);
        return as_doubles<double>(elements(y));
      },
      [&](std::span<const double> grad_output) {
        Matrix<double> dy(x.rows(), static_cast<Index>(grad_output.size()) / x.rows());
        std::copy(grad_output.begin(), grad_output.end(), dy.data());
        for (Parameter<double>* parameter : parameters) parameter->drop_gradient();
        dx = op.backward(dy, saved, args...);
      });
}

// x -> x + branch(x): the whole layer, in a new tensor or in its argument's buffer.
template <class Op>
JacobianError check_layer(Op op, bool in_place, Matrix<double>& x, const SequenceShape& shape) {
  dropbp::DropBPLayer<Op> layer(std::move(op));
  Matrix<double> dx;
  std::vector<Variable> variables{
      {"x", elements(x), [&] { return as_doubles<double>(elements(dx)); }}};
  layer.op().for_each_parameter(
      [&](Parameter<double>& parameter) { variables.push_back(variable_of(parameter)); });
  return jacobian_error(
      variables,
      [&] {
        const Matrix<double> y =
            in_place ? layer.forward(clone(x), shape) : layer.forward(std::as_const(x), shape);
        return as_doubles<double>(elements(y));
      },
      [&](std::span<const double> grad_output) {
        Matrix<double> dy(x.rows(), x.columns());
        std::copy(grad_output.begin(), grad_output.end(), dy.data());
        layer.op().for_each_parameter(
            [&](Parameter<double>& parameter) { parameter.drop_gradient(); });
        dx = layer.backward(std::move(dy), shape);
      });
}

}  // namespace dropbp::test
