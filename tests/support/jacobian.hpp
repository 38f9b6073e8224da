// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Checks any differentiable operation: compares every element of its Jacobian with finite
// differences, in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace dropbp::test {

/// An input or parameter by which an operation is differentiated: its elements, and where the
/// backward pass puts their gradient.
struct Variable {
  std::string name;
  std::span<double> value;
  std::function<std::vector<double>()> gradient;
};

struct JacobianError {
  double scaled = 0;     ///< the largest max |J - J_fd| / max |J_fd| of any variable
  std::string variable;  ///< the variable with the largest error
};

/// forward() returns the outputs at the variables' current values. backward(grad_output) computes
/// all gradients, which the variables then return. J_fd is the five-point central difference, with
/// an error of order step^4. The scale is the variable's own largest derivative, not max(1, ...),
/// so a small Jacobian does not get a looser bound.
inline JacobianError jacobian_error(const std::vector<Variable>& variables,
                                    const std::function<std::vector<double>()>& forward,
                                    const std::function<void(std::span<const double>)>& backward,
                                    double step = 5e-4) {
  const std::size_t outputs = forward().size();
  std::vector<std::vector<double>> analytic;  // [variable][output * size + element]
  for (const Variable& variable : variables) analytic.emplace_back(outputs * variable.value.size());
  std::vector<double> grad_output(outputs, 0.0);
  for (std::size_t o = 0; o < outputs; ++o) {
    grad_output[o] = 1;
    forward();
    backward(grad_output);
    grad_output[o] = 0;
    for (std::size_t v = 0; v < variables.size(); ++v) {
      const std::vector<double> row = variables[v].gradient();
      if (row.size() != variables[v].value.size())
        return {std::numeric_limits<double>::infinity(), variables[v].name};
      std::copy(row.begin(), row.end(),
                analytic[v].begin() + static_cast<std::ptrdiff_t>(o * row.size()));
    }
  }
  JacobianError worst;
  for (std::size_t v = 0; v < variables.size(); ++v) {
    const std::span<double> value = variables[v].value;
    double difference = 0, largest = 0;
    for (std::size_t i = 0; i < value.size(); ++i) {
      const double centre = value[i];
      const auto at = [&](double offset) {
        value[i] = centre + offset;
        return forward();
      };
      const auto far_below = at(-2 * step), below = at(-step), above = at(step),
                 far_above = at(2 * step);
      value[i] = centre;
      for (std::size_t o = 0; o < outputs; ++o) {
        const double expected =
            (8 * (above[o] - below[o]) - (far_above[o] - far_below[o])) / (12 * step);
        const double error = std::abs(analytic[v][o * value.size() + i] - expected);
        difference = error <= difference ? difference : error;  // keeps NaN
        largest = std::max(largest, std::abs(expected));
      }
    }
    // If the derivative is zero everywhere (softmax over one key), compare absolute values.
    const double scaled = largest > 1e-9 ? difference / largest : difference;
    if (!(scaled <= worst.scaled)) worst = {scaled, variables[v].name};
  }
  return worst;
}

}  // namespace dropbp::test
