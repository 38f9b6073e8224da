// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Frozen weights in 4 bits: NormalFloat with double quantisation, as QLoRA (Dettmers et al. 2023)
// has it.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

#include "dropbp/ops/matrix.hpp"
#include "dropbp/ops/simd.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {
namespace detail {

// What the 16 codes stand for, relative to the largest value of their block: quantiles of the
// normal distribution, as bitsandbytes publishes them.
inline constexpr std::array<float, 16> nf4_values = {-1.0f,
                                                     -0.6961928009986877f,
                                                     -0.5250730514526367f,
                                                     -0.39491748809814453f,
                                                     -0.28444138169288635f,
                                                     -0.18477343022823334f,
                                                     -0.09105003625154495f,
                                                     0.0f,
                                                     0.07958029955625534f,
                                                     0.16093020141124725f,
                                                     0.24611230194568634f,
                                                     0.33791524171829224f,
                                                     0.44070982933044434f,
                                                     0.5626170039176941f,
                                                     0.7229568362236023f,
                                                     1.0f};

// A value above the first n of them, and no more, gets code n: the numbers of bitsandbytes' CUDA
// kernel.
inline constexpr std::array<float, 15> nf4_thresholds = {
    -0.8480964004993439f,  -0.6106329262256622f,  -0.4599952697753906f,   -0.33967943489551544f,
    -0.23460740596055984f, -0.13791173323988914f, -0.045525018125772476f, 0.03979014977812767f,
    0.1202552504837513f,   0.2035212516784668f,   0.2920137718319893f,    0.3893125355243683f,
    0.5016634166240692f,   0.6427869200706482f,   0.8614784181118011f};

// Both values of a byte, that of the high half first.
inline constexpr auto nf4_pairs = [] {
  std::array<std::array<float, 2>, 256> pairs{};
  for (std::size_t byte = 0; byte < 256; ++byte)
    pairs[byte] = {nf4_values[byte >> 4], nf4_values[byte & 15]};
  return pairs;
}();

// The 8-bit "dynamic" numbers (Dettmers 2016, 8-Bit Approximations for Parallelism in Deep
// Learning), in ascending order: for each power of ten from 1e-6 to 1, twice as many as for the one
// before, the middles of equal parts of [0.1, 1] times it, with both signs; besides them 0 and 1.
inline constexpr auto dynamic_values = [] {
  std::array<float, 256> values{0.0f, 1.0f};
  std::size_t count = 2;
  constexpr float powers[] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};
  for (int exponent = 0; exponent < 7; ++exponent) {
    const int parts = 1 << exponent;
    const double step = static_cast<double>((1.0f - 0.1f) / static_cast<float>(parts)),
                 from = static_cast<double>(0.1f);
    // Counted from the nearer end and rounded once, as by PyTorch's linspace with fused
    // multiply-adds.
    const auto boundary = [&](int i) {
      return static_cast<float>(i < (parts + 1) / 2 ? from + step * i : 1.0 - step * (parts - i));
    };
    for (int i = 0; i < parts; ++i) {
      const float middle = powers[exponent] * ((boundary(i) + boundary(i + 1)) / 2.0f);
      values[count++] = middle;
      values[count++] = -middle;
    }
  }
  std::sort(values.begin(), values.end());
  return values;
}();

inline constexpr auto dynamic_middles = [] {
  std::array<float, 255> middles{};
  for (std::size_t i = 0; i < 255; ++i)
    middles[i] = (dynamic_values[i] + dynamic_values[i + 1]) * 0.5f;
  return middles;
}();

// The code of the nearest number; of two at equal distance, the even code.
inline std::uint8_t dynamic_code(float value) noexcept {
  const auto above = std::lower_bound(dynamic_middles.begin(), dynamic_middles.end(), value);
  const auto code = static_cast<unsigned>(above - dynamic_middles.begin());
  const bool tie = above != dynamic_middles.end() && *above == value;
  return static_cast<std::uint8_t>(tie ? (code + 1) / 2 * 2 : code);
}

// The bits without the sign: ordered like the absolute values, NaN and infinities above all others,
// in every build.
inline std::uint32_t magnitude(float value) noexcept {
  return std::bit_cast<std::uint32_t>(value) & 0x7FFFFFFFu;
}
inline constexpr std::uint32_t magnitude_of_infinity = 0x7F800000u;

}  // namespace detail

/// A matrix of 4-bit codes in the memory of a backend.
template <class Backend>
class BasicNf4Matrix;

/// A matrix [rows, columns] of 4-bit NormalFloat codes ("NF4"): (4 + 8/64 + 32/(64 * 256)) bits an
/// element, and 4 bytes.
///
/// The elements, row by row, form blocks of 64; the last one may be shorter, and blocks do not end
/// with rows. A block has a scale, its largest absolute value, and an element the code of the
/// nearest of 16 fixed multiples of it. The scales less their mean are quantised themselves, to
/// 8-bit "dynamic" codes in groups of 256 blocks, each with a float for its largest. Codes and
/// values are those of bitsandbytes (quantize_4bit with quant_type "nf4" and compress_statistics),
/// bit for bit. Its CUDA kernels decide where its CPU code differs: in the last bit of the lowest
/// threshold, in a short block, which they too multiply by 1 / scale, and in the 8-bit codes, which
/// the CPU takes from a table that is a little off. Two things are as neither or one of them has
/// it: a block of zeros comes back as zeros, as on the CPU; and the mean is that of the exact sum,
/// where sums of floats differ in the last bits with their order.
template <>
class BasicNf4Matrix<Cpu> {
 public:
  static constexpr Index block = 64;   ///< elements that share a scale
  static constexpr Index group = 256;  ///< scales that share a float

  BasicNf4Matrix() = default;  ///< [0, 0]
  /// Leaves the other one empty.
  BasicNf4Matrix(BasicNf4Matrix&& other) noexcept { *this = std::move(other); }
  /// Leaves the other one empty.
  BasicNf4Matrix& operator=(BasicNf4Matrix&& other) noexcept {
    codes_ = std::move(other.codes_), scales_ = std::move(other.scales_),
    group_scales_ = std::move(other.group_scales_);
    offset_ = std::exchange(other.offset_, 0.0f);
    rows_ = std::exchange(other.rows_, 0), columns_ = std::exchange(other.columns_, 0);
    return *this;
  }

  /// Throws std::invalid_argument where an element is NaN or infinite; the message has `name`.
  static BasicNf4Matrix quantize(MatrixView<const float> values,
                                 const std::string& name = "a matrix") {
    BasicNf4Matrix result(values.rows, values.columns);
    const Index blocks = count_blocks(result.size());
    Matrix<float> largest(1, blocks);
    parallel_for(blocks, block,
                 [&](Index b) { largest.data()[b] = result.quantize_block(values, b); });
    for (Index b = 0; b < blocks; ++b)
      if (detail::magnitude(largest.data()[b]) >= detail::magnitude_of_infinity)
        throw_not_finite(values, b, name);
    result.quantize_scales(largest.data(), blocks);
    return result;
  }

  /// The same codes and scales, in memory of their own.
  BasicNf4Matrix clone() const {
    BasicNf4Matrix copy(rows_, columns_);
    ops::copy<std::uint8_t>(copy.codes_.view(), codes_.view()),
        ops::copy<std::uint8_t>(copy.scales_.view(), scales_.view());
    ops::copy<float>(copy.group_scales_.view(), group_scales_.view());
    copy.offset_ = offset_;
    return copy;
  }

  Index rows() const noexcept { return rows_; }             ///< number of rows
  Index columns() const noexcept { return columns_; }       ///< elements of a row
  Index size() const noexcept { return rows_ * columns_; }  ///< elements
  /// Of codes, scales, their floats and the mean.
  std::size_t bytes() const noexcept { return bytes(rows_, columns_); }

  /// bytes() of such a matrix.
  static std::size_t bytes(Index rows, Index columns) noexcept {
    const Index size = rows * columns, blocks = count_blocks(size);
    return static_cast<std::size_t>((size + 1) / 2 + blocks) +
           static_cast<std::size_t>(count_groups(blocks) + 1) * sizeof(float);
  }

  /// [1, size / 2], high half of a byte first.
  const Matrix<std::uint8_t>& codes() const noexcept { return codes_; }
  /// [1, blocks]: 8-bit codes.
  const Matrix<std::uint8_t>& scales() const noexcept { return scales_; }
  const Matrix<float>& group_scales() const noexcept { return group_scales_; }  ///< [1, groups]
  float offset() const noexcept { return offset_; }  ///< the mean of the blocks' scales

  /// All elements. T is float or double, with the same values. Throws std::invalid_argument for
  /// another shape.
  template <class T>
  void dequantize(MatrixView<T> to) const {
    dequantize_rows(0, rows_, to);
  }

  /// `count` rows from `first` on, into as many: the panels of a product. On all threads.
  template <class T>
  void dequantize_rows(Index first, Index count, MatrixView<T> to) const {
    if (first < 0 || count < 0 || first > rows_ - count || to.rows != count ||
        to.columns != columns_)
      detail::throw_invalid("rows of a quantised matrix " + detail::shape_text(rows_, columns_) +
                                " go to a view of as many rows and all columns",
                            std::to_string(count) + " from " + std::to_string(first) + " to " +
                                detail::shape_text(to.rows, to.columns) + " was asked for",
                            "ask for rows it has");
    parallel_for(count, columns_,
                 [&](Index i) { expand((first + i) * columns_, columns_, to.row(i)); });
  }

 private:
  BasicNf4Matrix(Index rows, Index columns) : rows_(rows), columns_(columns) {
    detail::checked_bytes(rows, columns, 1);
    codes_ = Matrix<std::uint8_t>(1, (size() + 1) / 2);
    scales_ = Matrix<std::uint8_t>(1, count_blocks(size()));
    group_scales_ = Matrix<float>(1, count_groups(scales_.columns()));
  }

  static Index count_blocks(Index size) noexcept { return (size + block - 1) / block; }
  static Index count_groups(Index blocks) noexcept { return (blocks + group - 1) / group; }

  // Codes of one block; returns its largest absolute value, or NaN or infinity where one is.
  float quantize_block(MatrixView<const float> values, Index b) {
    const Index first = b * block, count = (std::min)(block, size() - first);
    float element[block] = {};
    for (Index i = 0; i < count;) {
      const Index row = (first + i) / columns_, column = (first + i) % columns_;
      const Index piece = (std::min)(count - i, columns_ - column);
      std::copy_n(values.row(row) + column, piece, element + i);
      i += piece;
    }
    std::uint32_t most = 0;
    for (const float value : element) most = (std::max)(most, detail::magnitude(value));
    const float largest = std::bit_cast<float>(most);
    // bitsandbytes' CPU code has this smallest scale: zeros get the code of zero.
    const float inverse = 1.0f / (most < detail::magnitude(1e-38f) ? 1e-38f : largest);
    std::uint8_t code[block] = {};
    for (const float threshold : detail::nf4_thresholds)
      for (Index i = 0; i < block; ++i)
        code[i] = static_cast<std::uint8_t>(code[i] + (element[i] * inverse > threshold));
    std::uint8_t* const to = codes_.data() + first / 2;
    for (Index i = 0; i < count; i += 2)
      to[i / 2] = static_cast<std::uint8_t>(code[i] << 4 | code[i + 1]);
    return largest;
  }

  void quantize_scales(float* largest, Index blocks) {
    double sum = 0;
    for (Index b = 0; b < blocks; ++b) sum += static_cast<double>(largest[b]);
    if (blocks > 0) offset_ = static_cast<float>(sum) / static_cast<float>(blocks);
    parallel_for(group_scales_.columns(), group, [&](Index g) {
      const Index first = g * group, end = (std::min)(blocks, first + group);
      std::uint32_t most = 0;
      for (Index b = first; b < end; ++b) {
        largest[b] -= offset_;
        most = (std::max)(most, detail::magnitude(largest[b]));
      }
      const float scale = std::bit_cast<float>(most), inverse = 1.0f / scale;
      group_scales_.data()[g] = scale;
      for (Index b = first; b < end; ++b)
        scales_.data()[b] =
            most == 0 ? std::uint8_t{0} : detail::dynamic_code(largest[b] * inverse);
    });
  }

  [[noreturn]] static void throw_not_finite(MatrixView<const float> values, Index b,
                                            const std::string& name) {
    Index at = b * block;
    while (detail::magnitude(values.row(at / values.columns)[at % values.columns]) <
           detail::magnitude_of_infinity)
      ++at;
    const Index row = at / values.columns, column = at % values.columns;
    const bool infinite =
        detail::magnitude(values.row(row)[column]) == detail::magnitude_of_infinity;
    detail::throw_invalid(
        "4-bit codes stand for finite values",
        name + " is " + (infinite ? "infinite" : "NaN") + " at " + detail::shape_text(row, column),
        "check the file or the computation it comes from");
  }

  // A product and a sum, each rounded to float: the product of two floats is exact in double.
  float scale_of(Index b) const noexcept {
    const double scaled = static_cast<double>(detail::dynamic_values[scales_.data()[b]]) *
                          static_cast<double>(group_scales_.data()[b / group]);
    return static_cast<float>(scaled) + offset_;
  }

  // `count` elements from `first` on.
  template <class T>
  void expand(Index first, Index count, T* to) const noexcept {
    while (count > 0) {
      const Index b = first / block, piece = (std::min)(count, (b + 1) * block - first);
      const std::uint8_t* from = codes_.data() + first / 2;
      const float scale = scale_of(b);
      if (piece == block) {
        for (Index i = 0; i < block / 2; ++i) expand_byte(from[i], scale, to + 2 * i);
      } else {
        Index i = 0;
        if (first % 2 != 0) to[i++] = static_cast<T>(detail::nf4_values[*from++ & 15u] * scale);
        for (; i + 2 <= piece; i += 2) expand_byte(*from++, scale, to + i);
        if (i < piece) to[i] = static_cast<T>(detail::nf4_values[*from >> 4] * scale);
      }
      first += piece, count -= piece, to += piece;
    }
  }
  template <class T>
  static void expand_byte(std::uint8_t byte, float scale, T* to) noexcept {
    const auto& pair = detail::nf4_pairs[byte];
#if defined(__GNUC__)
    if constexpr (sizeof(T) == sizeof(float)) {  // as one 8-byte vector: 1.6 times as fast
      typename detail::vector_of<float, 2>::type both;
      std::memcpy(&both, pair.data(), sizeof both);
      both *= scale;
      std::memcpy(to, &both, sizeof both);
      return;
    }
#endif
    to[0] = static_cast<T>(pair[0] * scale);
    to[1] = static_cast<T>(pair[1] * scale);
  }

  Matrix<std::uint8_t> codes_, scales_;
  Matrix<float> group_scales_;
  float offset_ = 0.0f;
  Index rows_ = 0, columns_ = 0;
};

using Nf4Matrix = BasicNf4Matrix<Cpu>;  ///< in host memory

}  // namespace ops
DROPBP_NAMESPACE_END
