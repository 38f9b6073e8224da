// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A parameter matrix with its gradient, which may be absent. A fused parameter can also be visited
// part by part.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "dropbp/kernels/matrix.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// One named part of a parameter, as checkpoints, reports and sensitivities see it.
template <class T, class Backend = Cpu>
struct ParameterSlice {
  const std::string& name;  ///< as in checkpoints
  Index rows;               ///< number of rows
  Index columns;            ///< elements per row
  T* value;                 ///< first element
  T* gradient;              ///< null if absent
  bool trained;             ///< see Parameter::trained

  /// Number of elements.
  std::size_t size() const noexcept { return static_cast<std::size_t>(rows * columns); }
};

/// A parameter [rows, columns]; a vector has one row. The gradient is absent before
/// begin_gradient() and after drop_gradient(). An absent gradient is not a zero gradient: an
/// optimizer must not change the parameter.
template <class T, class Backend = Cpu>
class Parameter {
 public:
  /// A block of rows with its own name.
  struct Part {
    std::string name;  ///< as in checkpoints
    Index rows;        ///< number of rows
  };

  bool trained = true;  ///< false: frozen, backward passes compute no gradient
  bool decays = true;   ///< false: exempt from weight decay (biases, norms)

  /// A parameter with one part. The values are not initialised.
  Parameter(std::string name, Index rows, Index columns)
      : Parameter({{std::move(name), rows}}, columns) {}

  /// A fused parameter, whose parts are stacked by rows. The values are not initialised.
  Parameter(std::vector<Part> parts, Index columns)
      : parts_(std::move(parts)), value_(sum_of_rows(parts_), columns) {}

  Index rows() const noexcept { return value_.rows(); }               ///< of all parts together
  Index columns() const noexcept { return value_.columns(); }         ///< elements per row
  std::size_t size() const noexcept { return value_.size(); }         ///< number of elements
  const std::vector<Part>& parts() const noexcept { return parts_; }  ///< from the first row down

  MatrixView<T, Backend> value() noexcept { return value_.view(); }  ///< [rows, columns]
  /// [rows, columns].
  MatrixView<const T, Backend> value() const noexcept { return value_.view(); }

  /// False if the gradient is absent.
  bool has_gradient() const noexcept { return has_gradient_; }
  /// Valid only while has_gradient(), except for the write that begin_gradient() announces.
  MatrixView<T, Backend> gradient() noexcept { return gradient_.view(); }
  /// Valid only while has_gradient().
  MatrixView<const T, Backend> gradient() const noexcept { return gradient_.view(); }

  /// Announces a contribution to the gradient and returns how to write it into gradient(). The
  /// first contribution of a step overwrites every element, so the gradient need not be set to
  /// zero; later ones add.
  Accumulate begin_gradient() {
    if (gradient_.size() != value_.size()) gradient_ = Matrix<T, Backend>(rows(), columns());
    return std::exchange(has_gradient_, true) ? Accumulate::add : Accumulate::overwrite;
  }

  /// The gradient's elements for the core's concepts. Valid only while has_gradient().
  Elements<const T, Backend> gradient_elements() const noexcept {
    return {gradient_.data(), has_gradient_ ? size() : 0};
  }

  /// Makes the gradient absent. Its memory is reused in the next step.
  void drop_gradient() noexcept { has_gradient_ = false; }

  /// Calls visit(const ParameterSlice<T, Backend>&) for each part, from the first row down.
  template <class Visit>
  void for_each_slice(const Visit& visit) {
    Index first = 0;
    for (const Part& part : parts_) {
      visit(ParameterSlice<T, Backend>{part.name, part.rows, columns(), value_.row(first),
                                       has_gradient_ ? gradient_.row(first) : nullptr, trained});
      first += part.rows;
    }
  }

 private:
  static Index sum_of_rows(const std::vector<Part>& parts) {
    Index rows = 0;
    for (const Part& part : parts) rows += part.rows;
    return rows;
  }

  std::vector<Part> parts_;
  Matrix<T, Backend> value_, gradient_;
  bool has_gradient_ = false;
};

}  // namespace ops
DROPBP_NAMESPACE_END
