// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Frozen weights in 4 bits: NormalFloat with double quantisation, as in QLoRA (Dettmers et al.
// 2023).
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>

#include "dropbp/kernels/cpu/nf4.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {
namespace detail {

// An element has code n if it exceeds the first n thresholds and no more. The numbers are those of
// bitsandbytes' CUDA kernel.
inline constexpr std::array<float, 15> nf4_thresholds = {
    -0.8480964004993439f,  -0.6106329262256622f,  -0.4599952697753906f,   -0.33967943489551544f,
    -0.23460740596055984f, -0.13791173323988914f, -0.045525018125772476f, 0.03979014977812767f,
    0.1202552504837513f,   0.2035212516784668f,   0.2920137718319893f,    0.3893125355243683f,
    0.5016634166240692f,   0.6427869200706482f,   0.8614784181118011f};

inline constexpr auto dynamic_middles = [] {
  std::array<float, 255> middles{};
  for (std::size_t i = 0; i < 255; ++i)
    middles[i] = (dynamic_values[i] + dynamic_values[i + 1]) * 0.5f;
  return middles;
}();

// The code of the nearest number; between two equally near ones, the even code.
inline std::uint8_t dynamic_code(float value) noexcept {
  const auto above = std::lower_bound(dynamic_middles.begin(), dynamic_middles.end(), value);
  const auto code = static_cast<unsigned>(above - dynamic_middles.begin());
  const bool tie = above != dynamic_middles.end() && *above == value;
  return static_cast<std::uint8_t>(tie ? (code + 1) / 2 * 2 : code);
}

// The bits without the sign. In every build they are ordered like the absolute values, with
// infinity and NaN above all finite values.
inline std::uint32_t magnitude(float value) noexcept {
  return std::bit_cast<std::uint32_t>(value) & 0x7FFFFFFFu;
}
inline constexpr std::uint32_t magnitude_of_infinity = 0x7F800000u;

// Codes and scales, computed on the host.
struct Nf4Codes {
  Index rows, columns;
  Matrix<std::uint8_t> codes, scales;  // [1, (size + 1) / 2], [1, blocks]
  Matrix<float> group_scales;          // [1, groups]
  float offset = 0.0f;

  Nf4Codes(MatrixView<const float> values, const std::string& name)
      : rows(values.rows), columns(values.columns) {
    checked_bytes(rows, columns, 1);
    const Index blocks = count_blocks(size());
    codes = Matrix<std::uint8_t>(1, (size() + 1) / 2);
    scales = Matrix<std::uint8_t>(1, blocks);
    group_scales = Matrix<float>(1, count_groups(blocks));
    Matrix<float> largest(1, blocks);
    parallel_for(blocks, nf4_block,
                 [&](Index b) { largest.data()[b] = quantize_block(values, b); });
    for (Index b = 0; b < blocks; ++b)
      if (magnitude(largest.data()[b]) >= magnitude_of_infinity) throw_not_finite(values, b, name);
    quantize_scales(largest.data(), blocks);
  }

  Index size() const noexcept { return rows * columns; }
  static Index count_blocks(Index size) noexcept { return (size + nf4_block - 1) / nf4_block; }
  static Index count_groups(Index blocks) noexcept { return (blocks + nf4_group - 1) / nf4_group; }

 private:
  // Computes the codes of block `b`. Returns the largest absolute value; it is infinite or NaN if
  // an element is.
  float quantize_block(MatrixView<const float> values, Index b) {
    const Index first = b * nf4_block, count = (std::min)(nf4_block, size() - first);
    float element[nf4_block] = {};
    for (Index i = 0; i < count;) {
      const Index row = (first + i) / columns, column = (first + i) % columns;
      const Index piece = (std::min)(count - i, columns - column);
      std::copy_n(values.row(row) + column, piece, element + i);
      i += piece;
    }
    std::uint32_t most = 0;
    for (const float value : element) most = (std::max)(most, magnitude(value));
    const float largest = std::bit_cast<float>(most);
    // bitsandbytes' CPU code uses the same smallest scale. A block of zeros gets the code of zero.
    const float inverse = 1.0f / (most < magnitude(1e-38f) ? 1e-38f : largest);
    std::uint8_t code[nf4_block] = {};
    for (const float threshold : nf4_thresholds)
      for (Index i = 0; i < nf4_block; ++i)
        code[i] = static_cast<std::uint8_t>(code[i] + (element[i] * inverse > threshold));
    std::uint8_t* const to = codes.data() + first / 2;
    for (Index i = 0; i < count; i += 2)
      to[i / 2] = static_cast<std::uint8_t>(code[i] << 4 | code[i + 1]);
    return largest;
  }

  void quantize_scales(float* largest, Index blocks) {
    double sum = 0;
    for (Index b = 0; b < blocks; ++b) sum += static_cast<double>(largest[b]);
    if (blocks > 0) offset = static_cast<float>(sum) / static_cast<float>(blocks);
    parallel_for(group_scales.columns(), nf4_group, [&](Index g) {
      const Index first = g * nf4_group, end = (std::min)(blocks, first + nf4_group);
      std::uint32_t most = 0;
      for (Index b = first; b < end; ++b) {
        largest[b] -= offset;
        most = (std::max)(most, magnitude(largest[b]));
      }
      const float scale = std::bit_cast<float>(most), inverse = 1.0f / scale;
      group_scales.data()[g] = scale;
      for (Index b = first; b < end; ++b)
        scales.data()[b] = most == 0 ? std::uint8_t{0} : dynamic_code(largest[b] * inverse);
    });
  }

  [[noreturn]] static void throw_not_finite(MatrixView<const float> values, Index b,
                                            const std::string& name) {
    Index at = b * nf4_block;
    while (magnitude(values.row(at / values.columns)[at % values.columns]) < magnitude_of_infinity)
      ++at;
    const Index row = at / values.columns, column = at % values.columns;
    const bool infinite = magnitude(values.row(row)[column]) == magnitude_of_infinity;
    throw_invalid(
        "4-bit codes stand for finite values",
        name + " is " + (infinite ? "infinite" : "NaN") + " at " + shape_text(row, column),
        "check the file or the computation it comes from");
  }
};

}  // namespace detail

/// A matrix [rows, columns] of 4-bit NormalFloat codes ("NF4"), with 4 + 8/64 + 32/(64 * 256) bits
/// per element plus 4 bytes.
///
/// The elements, in row-major order, form blocks of 64. A block may continue in the next row; the
/// last block may be shorter. The scale of a block is its largest absolute value. An element's code
/// stands for the nearest of 16 fixed multiples of the scale. The scales are quantised too: their
/// mean is subtracted, and the differences become 8-bit "dynamic" codes in groups of 256 blocks,
/// with one float per group for its largest absolute value.
///
/// Codes and values equal those of bitsandbytes (quantize_4bit with quant_type "nf4" and
/// compress_statistics), bit for bit. Where its CUDA and CPU code differ, this class follows CUDA:
/// in the last bit of the lowest threshold; in a short block, whose elements CUDA also multiplies
/// by 1 / scale; and in the 8-bit codes, for which the CPU code uses a slightly inaccurate table.
/// There are two exceptions. A block of zeros is restored as zeros, as on the CPU. The mean of the
/// scales is that of their exact sum, because a sum of floats depends on its order.
///
/// Quantisation runs on the host for every backend; host memory holds one weight at a time.
template <class Backend>
class BasicNf4Matrix {
 public:
  static constexpr Index block = detail::nf4_block;  ///< elements that share a scale
  static constexpr Index group = detail::nf4_group;  ///< scales that share a float

  BasicNf4Matrix() = default;  ///< [0, 0]
  /// Leaves `other` empty.
  BasicNf4Matrix(BasicNf4Matrix&& other) noexcept { *this = std::move(other); }
  /// Leaves `other` empty.
  BasicNf4Matrix& operator=(BasicNf4Matrix&& other) noexcept {
    codes_ = std::move(other.codes_), scales_ = std::move(other.scales_),
    group_scales_ = std::move(other.group_scales_);
    offset_ = std::exchange(other.offset_, 0.0f);
    rows_ = std::exchange(other.rows_, 0), columns_ = std::exchange(other.columns_, 0);
    return *this;
  }

  /// Quantises a matrix. Throws std::invalid_argument if an element is NaN or infinite; the message
  /// contains `name`.
  static BasicNf4Matrix quantize(MatrixView<const float> values,
                                 const std::string& name = "a matrix") {
    detail::Nf4Codes host(values, name);
    BasicNf4Matrix result;
    result.codes_ = moved_to<Backend>(std::move(host.codes));
    result.scales_ = moved_to<Backend>(std::move(host.scales));
    result.group_scales_ = moved_to<Backend>(std::move(host.group_scales));
    result.rows_ = host.rows, result.columns_ = host.columns, result.offset_ = host.offset;
    return result;
  }

  /// A copy with memory of its own.
  BasicNf4Matrix clone() const {
    BasicNf4Matrix copy;
    copy.codes_ = clone_of(codes_), copy.scales_ = clone_of(scales_);
    copy.group_scales_ = clone_of(group_scales_);
    copy.rows_ = rows_, copy.columns_ = columns_, copy.offset_ = offset_;
    return copy;
  }

  Index rows() const noexcept { return rows_; }             ///< number of rows
  Index columns() const noexcept { return columns_; }       ///< elements per row
  Index size() const noexcept { return rows_ * columns_; }  ///< number of elements
  /// Bytes of the codes, the scales, the floats of the groups and the mean.
  std::size_t bytes() const noexcept { return bytes(rows_, columns_); }

  /// bytes() of a matrix with this shape.
  static std::size_t bytes(Index rows, Index columns) noexcept {
    const Index size = rows * columns, blocks = detail::Nf4Codes::count_blocks(size);
    return static_cast<std::size_t>((size + 1) / 2 + blocks) +
           static_cast<std::size_t>(detail::Nf4Codes::count_groups(blocks) + 1) * sizeof(float);
  }

  /// [1, (size + 1) / 2]: two codes per byte, the first in the high half.
  const Matrix<std::uint8_t, Backend>& codes() const noexcept { return codes_; }
  /// [1, blocks]: 8-bit codes of the blocks' scales.
  const Matrix<std::uint8_t, Backend>& scales() const noexcept { return scales_; }
  /// [1, groups]: largest absolute value of scale - mean in each group.
  const Matrix<float, Backend>& group_scales() const noexcept { return group_scales_; }
  float offset() const noexcept { return offset_; }  ///< the mean of the blocks' scales

  /// Writes all elements, rounded to T, to `to` [rows, columns]. T is any scalar type of the
  /// backend. Throws std::invalid_argument for another shape.
  template <class T>
  void dequantize(MatrixView<T, Backend> to) const {
    dequantize_rows(0, rows_, to);
  }

  /// Writes `count` rows from row `first` on, rounded to T, to `to` [count, columns]. Throws
  /// std::invalid_argument for rows that do not exist and for another shape.
  template <class T>
  void dequantize_rows(Index first, Index count, MatrixView<T, Backend> to) const {
    if (first < 0 || count < 0 || first > rows_ - count || to.rows != count ||
        to.columns != columns_)
      detail::throw_invalid("rows of a quantised matrix " + detail::shape_text(rows_, columns_) +
                                " go to a view of as many rows and all columns",
                            std::to_string(count) + " from " + std::to_string(first) + " to " +
                                detail::shape_text(to.rows, to.columns) + " was asked for",
                            "ask for rows it has");
    kernels<op::nf4, T, Backend>::expand(to, first, codes_.data(), scales_.data(),
                                         group_scales_.data(), offset_);
  }

  /// y [m, rows] (=|+=) x [m, columns] times the transpose of the matrix (nt), or y [m, columns]
  /// (=|+=) x [m, rows] times the matrix (nn), as gemm_nt and gemm_nn. The matrix is expanded in
  /// the packing of the product, a panel at a time. On the CPU. Throws std::invalid_argument for tn
  /// and if the shapes do not fit.
  template <class T>
    requires std::same_as<Backend, Cpu>
  void multiply(GemmLayout layout, MatrixView<T> y, std::type_identity_t<MatrixView<const T>> x,
                Accumulate mode) const {
    const bool transposed = layout == GemmLayout::nt;
    if (layout == GemmLayout::tn || y.rows != x.rows ||
        y.columns != (transposed ? rows_ : columns_) ||
        x.columns != (transposed ? columns_ : rows_))
      detail::throw_invalid("a product with a quantised matrix " +
                                detail::shape_text(rows_, columns_) +
                                " is nt or nn and needs sizes that fit together",
                            "y " + detail::shape_text(y.rows, y.columns) + " and x " +
                                detail::shape_text(x.rows, x.columns) + " were given",
                            "check the shapes of the operands");
    kernels<op::nf4, T, Cpu>::product(layout, y, x, rows_, columns_, codes_.data(), scales_.data(),
                                      group_scales_.data(), offset_, mode);
  }

 private:
  Matrix<std::uint8_t, Backend> codes_, scales_;
  Matrix<float, Backend> group_scales_;
  float offset_ = 0.0f;
  Index rows_ = 0, columns_ = 0;
};

using Nf4Matrix = BasicNf4Matrix<Cpu>;  ///< in host memory

}  // namespace ops
DROPBP_NAMESPACE_END
