// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A trained matrix with its gradient, which may be absent; a fused one is also seen as its named
// parts.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "dropbp/kernels/matrix.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// Rows of a parameter under a name of their own: what checkpoints, reports and sensitivities see.
template <class T, class Backend = Cpu>
struct ParameterSlice {
  const std::string& name;  ///< as in checkpoints
  Index rows;               ///< number of rows
  Index columns;            ///< elements of a row
  T* value;                 ///< the first element
  T* gradient;              ///< null while absent
  bool trained;             ///< see Parameter::trained

  /// Elements.
  std::size_t size() const noexcept { return static_cast<std::size_t>(rows * columns); }
};

/// A parameter [rows, columns]; a vector has one row. Its gradient is absent until begin_gradient()
/// and after drop_gradient(). Absent is not zero: an optimizer must leave the parameter alone.
template <class T, class Backend = Cpu>
class Parameter {
 public:
  /// Rows with a name of their own.
  struct Part {
    std::string name;  ///< as in checkpoints
    Index rows;        ///< number of rows
  };

  bool trained = true;  ///< false: frozen; backward passes compute no gradient for it
  bool decays = true;   ///< false: an optimizer's weight decay leaves it out (biases, norms)

  /// Of one part. The values are not initialised.
  Parameter(std::string name, Index rows, Index columns)
      : Parameter({{std::move(name), rows}}, columns) {}

  /// A fused parameter: its parts lie below each other.
  Parameter(std::vector<Part> parts, Index columns)
      : parts_(std::move(parts)), value_(sum_of_rows(parts_), columns) {}

  Index rows() const noexcept { return value_.rows(); }               ///< of all parts
  Index columns() const noexcept { return value_.columns(); }         ///< elements of a row
  std::size_t size() const noexcept { return value_.size(); }         ///< elements
  const std::vector<Part>& parts() const noexcept { return parts_; }  ///< from the first row down

  MatrixView<T, Backend> value() noexcept { return value_.view(); }  ///< [rows, columns]
  /// [rows, columns].
  MatrixView<const T, Backend> value() const noexcept { return value_.view(); }

  /// False: absent, which is not zero.
  bool has_gradient() const noexcept { return has_gradient_; }
  /// Meaningful only while has_gradient(), except to write what begin_gradient() asked for.
  MatrixView<T, Backend> gradient() noexcept { return gradient_.view(); }
  /// Meaningful only while has_gradient().
  MatrixView<const T, Backend> gradient() const noexcept { return gradient_.view(); }

  /// Announces a contribution and says how to write it into gradient(): the first one of a step
  /// overwrites every element, so that nobody has to set it to zero; later ones add.
  Accumulate begin_gradient() {
    if (gradient_.size() != value_.size()) gradient_ = Matrix<T, Backend>(rows(), columns());
    return std::exchange(has_gradient_, true) ? Accumulate::add : Accumulate::overwrite;
  }

  /// Its elements, as the core's concepts take them; meaningful only while has_gradient().
  Elements<const T, Backend> gradient_elements() const noexcept {
    return {gradient_.data(), has_gradient_ ? size() : 0};
  }

  /// Makes the gradient absent; its memory stays for the next step.
  void drop_gradient() noexcept { has_gradient_ = false; }

  /// visit(const ParameterSlice<T, Backend>&) for each part, from the first row down.
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
