// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Matrices in 8-bit floating point (e4m3) with a scale for each row: frozen weights, and the inputs
// that they are multiplied with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>

#include "dropbp/kernels/cpu/fp8.hpp"
#include "dropbp/ops/gemm.hpp"
#include "dropbp/ops/panels.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// A matrix [rows, columns] of e4m3 codes (backend/e4m3.hpp) with one float per row, its scale.
///
/// A row is divided by its scale and rounded to nearest. The scale is the least power of two with
/// which the row's largest magnitude is at most 448, and at least 2^-117. So codes times scales are
/// exact in float and BFloat16, and an element's relative error is at most 2^-4, or its absolute
/// error at most 2^-10 scales. (A scale that makes the largest magnitude exactly 448 is no more
/// accurate but for the smallest elements: these are floating-point numbers.)
template <class Backend>
class BasicFp8Matrix {
 public:
  using Codes = MatrixView<const std::uint8_t, Backend>;  ///< rows of codes

  BasicFp8Matrix() = default;  ///< [0, 0]
  /// Leaves `other` empty.
  BasicFp8Matrix(BasicFp8Matrix&& other) noexcept { *this = std::move(other); }
  /// Leaves `other` empty.
  BasicFp8Matrix& operator=(BasicFp8Matrix&& other) noexcept {
    codes_ = std::move(other.codes_), scales_ = std::move(other.scales_);
    columns_ = std::exchange(other.columns_, 0);
    return *this;
  }

  /// Quantises a matrix on the host, for every backend. Throws std::invalid_argument if an element
  /// is NaN or infinite; the message contains `name`.
  static BasicFp8Matrix quantize(MatrixView<const float> values,
                                 const std::string& name = "a matrix") {
    Matrix<std::uint8_t> codes(values.rows, padded(values.columns));
    Matrix<float> scales(1, values.rows);
    kernels<op::fp8, float, Cpu>::quantize(codes.view(), scales.data(), values);
    for (Index i = 0; i < values.rows; ++i)
      if (not_finite(scales.data()[i])) throw_not_finite(values, i, name);
    BasicFp8Matrix result;
    result.codes_ = moved_to<Backend>(std::move(codes));
    result.scales_ = moved_to<Backend>(std::move(scales));
    result.columns_ = values.columns;
    return result;
  }

  /// Quantises a matrix of T where it is, into memory from `workspace`. A row with an element that
  /// is NaN or infinite becomes NaN.
  template <class T>
  static BasicFp8Matrix quantize(MatrixView<const T, Backend> values,
                                 BasicMemoryPool<Backend>& workspace) {
    BasicFp8Matrix result;
    result.codes_ = Matrix<std::uint8_t, Backend>(values.rows, padded(values.columns), workspace);
    result.scales_ = Matrix<float, Backend>(1, values.rows, workspace);
    result.columns_ = values.columns;
    kernels<op::fp8, T, Backend>::quantize(result.codes_.view(), result.scales_.data(), values);
    return result;
  }

  /// A copy with memory of its own.
  BasicFp8Matrix clone() const {
    BasicFp8Matrix copy;
    copy.codes_ = clone_of(codes_), copy.scales_ = clone_of(scales_), copy.columns_ = columns_;
    return copy;
  }

  Index rows() const noexcept { return codes_.rows(); }       ///< number of rows
  Index columns() const noexcept { return columns_; }         ///< elements per row
  Index size() const noexcept { return rows() * columns(); }  ///< number of elements
  /// Bytes of the codes, whose rows are filled up to multiples of 16, and of the scales.
  std::size_t bytes() const noexcept { return codes_.size() + scales_.size() * sizeof(float); }

  /// [rows, columns rounded up to a multiple of 16]; what is beyond the columns is 0.
  Codes codes() const noexcept { return codes_.view(); }
  const float* scales() const noexcept { return scales_.data(); }  ///< [rows]

  /// Writes all elements, rounded to T, to `to` [rows, columns]. Throws std::invalid_argument for
  /// another shape.
  template <class T>
  void dequantize(MatrixView<T, Backend> to) const {
    dequantize_rows(0, rows(), to);
  }

  /// Writes `count` rows from row `first` on, rounded to T, to `to` [count, columns]. Throws
  /// std::invalid_argument for rows that do not exist and for another shape.
  template <class T>
  void dequantize_rows(Index first, Index count, MatrixView<T, Backend> to) const {
    if (first < 0 || count < 0 || first > rows() - count || to.rows != count ||
        to.columns != columns_)
      detail::throw_invalid("rows of a quantised matrix " + detail::shape_text(rows(), columns_) +
                                " go to a view of as many rows and all columns",
                            std::to_string(count) + " from " + std::to_string(first) + " to " +
                                detail::shape_text(to.rows, to.columns) + " was asked for",
                            "ask for rows it has");
    kernels<op::fp8, T, Backend>::expand(to, codes().rows_from(first, count), scales() + first);
  }

  /// y [m, rows] (=|+=) x [m, columns] times the transpose of this matrix, as gemm_nt: in 8 bits on
  /// a device that has such products, elsewhere with both dequantised to T, a panel of this matrix
  /// at a time. The values differ only in how sums are rounded. Throws std::invalid_argument if the
  /// shapes do not fit.
  template <class T>
  void multiply(MatrixView<T, Backend> y, const BasicFp8Matrix& x, Accumulate mode,
                BasicMemoryPool<Backend>& workspace) const {
    detail::require_product(false, true, y, x.shape(), shape());
    if constexpr (!std::is_same_v<Backend, Cpu>)
      if (kernels<op::fp8_gemm, T, Backend>::run(y, x.codes(), x.scales(), codes(), scales(), mode))
        return;
    Matrix<T, Backend> values(x.rows(), columns_, workspace);
    x.dequantize(values.view());
    detail::for_each_panel<T>(*this, workspace, [&](Index row, auto panel) {
      gemm_nt(y.columns_from(row, panel.rows), values.view(), panel, mode);
    });
  }

 private:
  static Index padded(Index columns) noexcept { return (columns + 15) / 16 * 16; }

  Codes shape() const noexcept { return {nullptr, rows(), columns_}; }

  static bool not_finite(float value) noexcept {
    return (dropbp::detail::bits_of(value) & 0x7F800000u) == 0x7F800000u;
  }

  [[noreturn]] static void throw_not_finite(MatrixView<const float> values, Index row,
                                            const std::string& name) {
    Index column = 0;
    while (!not_finite(values.row(row)[column])) ++column;
    const bool infinite = (dropbp::detail::bits_of(values.row(row)[column]) & 0x7FFFFFu) == 0;
    detail::throw_invalid(
        "8-bit codes stand for finite values",
        name + " is " + (infinite ? "infinite" : "NaN") + " at " + detail::shape_text(row, column),
        "check the file or the computation it comes from");
  }

  Matrix<std::uint8_t, Backend> codes_;
  Matrix<float, Backend> scales_;
  Index columns_ = 0;
};

using Fp8Matrix = BasicFp8Matrix<Cpu>;  ///< in host memory

/// Whether the current device multiplies operands in 8 bits; never on the CPU.
template <class T, class Backend>
bool multiplies_fp8() {
  if constexpr (std::is_same_v<Backend, Cpu>)
    return false;
  else
    return kernels<op::fp8_gemm, T, Backend>::available();
}

}  // namespace ops
DROPBP_NAMESPACE_END
