// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Row-major matrices: one that owns its memory and a view of rows that may lie further apart.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

#include "dropbp/kernels/index.hpp"
#include "dropbp/kernels/memory.hpp"
#include "dropbp/tensor.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {
namespace detail {

using dropbp::detail::throw_invalid;

inline std::string shape_text(Index rows, Index columns) {
  return std::to_string(rows)
      .insert(0, 1, '[')
      .append(", ")
      .append(std::to_string(columns))
      .append("]");
}

inline std::size_t checked_bytes(Index rows, Index columns, std::size_t element) {
  const bool fits = rows >= 0 && columns >= 0 &&
                    (columns == 0 || static_cast<std::size_t>(rows) <=
                                         PTRDIFF_MAX / element / static_cast<std::size_t>(columns));
  if (!fits)
    throw_invalid("a matrix needs sizes of at least 0 whose product fits the memory",
                  shape_text(rows, columns) + " was given",
                  "check batch, sequence and the model's sizes");
  return static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns) * element;
}

}  // namespace detail

/// What a kernel does with its output: `=` or `+=`.
enum class Accumulate { overwrite, add };

/// What statistics of a T (norms' scales, log-sum-exps, an optimizer's moments) are kept in: T
/// itself, unless it is narrower than float.
template <class T>
using Statistic = std::conditional_t<std::is_floating_point_v<T>, T, float>;

/// Rows of `columns` elements each, `stride` elements apart; owns nothing. A slice of a fused
/// buffer is a view.
template <class T, class Backend = Cpu>
struct MatrixView {
  T* data = nullptr;  ///< the first element
  Index rows = 0;     ///< number of rows
  Index columns = 0;  ///< elements of a row
  Index stride = 0;   ///< elements from one row to the next

  /// Of nothing.
  MatrixView() = default;
  /// Rows that lie `row_stride` elements apart.
  MatrixView(T* first, Index row_count, Index column_count, Index row_stride) noexcept
      : data(first), rows(row_count), columns(column_count), stride(row_stride) {}
  /// Rows without gaps.
  MatrixView(T* first, Index row_count, Index column_count) noexcept
      : MatrixView(first, row_count, column_count, column_count) {}

  /// The same rows, to be read only.
  template <class U>
    requires(std::is_same_v<U, const T> && !std::is_const_v<T>)
  operator MatrixView<U, Backend>() const noexcept {  // NOLINT: adds const, as a pointer does
    return {data, rows, columns, stride};
  }

  T* row(Index i) const noexcept { return data + i * stride; }  ///< its first element
  /// `count` rows from `first` on.
  MatrixView rows_from(Index first, Index count) const noexcept {
    return {row(first), count, columns, stride};
  }
  /// The same of columns.
  MatrixView columns_from(Index first, Index count) const noexcept {
    return {data + first, rows, count, stride};
  }
};

/// Elements without gaps, as std::span, where the host cannot touch them: the same to the library
/// as one.
template <class T, DeviceBackend Backend>
class DeviceSpan {
 public:
  DeviceSpan() = default;  ///< of nothing
  DeviceSpan(T* first, std::size_t count) noexcept
      : data_(first), size_(count) {}  ///< of `count` elements

  T* data() const noexcept { return data_; }           ///< the first element
  std::size_t size() const noexcept { return size_; }  ///< elements

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

namespace detail {
template <class T, class Backend>
struct span_of {
  using type = DeviceSpan<T, Backend>;
};
template <class T>
struct span_of<T, Cpu> {
  using type = std::span<T>;
};
}  // namespace detail

/// Elements without gaps: std::span for host memory.
template <class T, class Backend>
using Elements = typename detail::span_of<T, Backend>::type;

/// A row-major matrix [rows, columns] that owns its memory; moved, never copied by accident. Not
/// initialised.
template <class T, class Backend = Cpu>
class Matrix {
 public:
  Matrix() = default;  ///< [0, 0]
  /// From the plain heap.
  Matrix(Index rows, Index columns)
      : block_(detail::checked_bytes(rows, columns, sizeof(T))), rows_(rows), columns_(columns) {}
  /// From a pool. Both throw std::invalid_argument for negative sizes or too many elements.
  Matrix(Index rows, Index columns, BasicMemoryPool<Backend>& pool)
      : block_(pool.allocate(detail::checked_bytes(rows, columns, sizeof(T)))),
        rows_(rows),
        columns_(columns) {}
  /// Leaves the other one empty.
  Matrix(Matrix&& other) noexcept
      : block_(std::move(other.block_)),
        rows_(std::exchange(other.rows_, 0)),
        columns_(std::exchange(other.columns_, 0)) {}
  /// Leaves the other one empty.
  Matrix& operator=(Matrix&& other) noexcept {
    block_ = std::move(other.block_);
    rows_ = std::exchange(other.rows_, 0);
    columns_ = std::exchange(other.columns_, 0);
    return *this;
  }

  T* data() noexcept { return static_cast<T*>(block_.data()); }  ///< the first element
  /// The first element.
  const T* data() const noexcept { return static_cast<const T*>(block_.data()); }
  /// Elements.
  std::size_t size() const noexcept { return static_cast<std::size_t>(rows_ * columns_); }
  Index rows() const noexcept { return rows_; }                           ///< number of rows
  Index columns() const noexcept { return columns_; }                     ///< elements of a row
  T* row(Index i) noexcept { return data() + i * columns_; }              ///< its first element
  const T* row(Index i) const noexcept { return data() + i * columns_; }  ///< its first element

  MatrixView<T, Backend> view() noexcept { return {data(), rows_, columns_}; }  ///< of all rows
  /// Of all rows.
  MatrixView<const T, Backend> view() const noexcept { return {data(), rows_, columns_}; }

 private:
  BasicMemoryBlock<Backend> block_;
  Index rows_ = 0;
  Index columns_ = 0;
};

/// A host matrix in the memory of a backend: the matrix itself, or a copy on the device.
template <class Backend, class T>
Matrix<T, Backend> moved_to(Matrix<T> host) {
  if constexpr (std::is_same_v<Backend, Cpu>) {
    return host;
  } else {
    Matrix<T, Backend> copy(host.rows(), host.columns());
    if (host.size() > 0)
      device_runtime<Backend>::copy_to_device(copy.data(), host.data(), host.size() * sizeof(T));
    return copy;
  }
}

/// The same elements in memory of their own.
template <class T, class Backend>
Matrix<T, Backend> clone_of(const Matrix<T, Backend>& matrix) {
  Matrix<T, Backend> copy(matrix.rows(), matrix.columns());
  device_runtime<Backend>::copy(copy.data(), matrix.data(), matrix.size() * sizeof(T));
  return copy;
}

namespace detail {

template <class Tensor, class T, class Backend>
struct device_traits {
  using backend = Backend;
  using Kernels = backend_kernels<Backend, std::remove_const_t<T>>;
  using Clone = Matrix<std::remove_const_t<T>, Backend>;

  static auto data(Tensor& x) { return x.data(); }
  static auto data(const Tensor& x) { return x.data(); }
  static std::size_t size(const Tensor& x) { return x.size(); }
  static double squared_norm(const Tensor& x) { return Kernels::squared_norm(x.data(), x.size()); }
  static double squared_distance(const Clone& x, const Tensor& y) {
    dropbp::detail::require_same_size(x.size(), y.size());
    return Kernels::squared_distance(x.data(), y.data(), x.size());
  }
  static Clone clone(const Tensor& x) {
    Clone copy(1, static_cast<Index>(x.size()));
    device_runtime<Backend>::copy(copy.data(), x.data(), x.size() * sizeof(T));
    return copy;
  }
};

}  // namespace detail
}  // namespace ops

template <class T, DeviceBackend Backend>
struct tensor_traits<ops::Matrix<T, Backend>>
    : ops::detail::device_traits<ops::Matrix<T, Backend>, T, Backend> {};

template <class T, DeviceBackend Backend>
struct tensor_traits<ops::DeviceSpan<T, Backend>>
    : ops::detail::device_traits<ops::DeviceSpan<T, Backend>, T, Backend> {};

DROPBP_NAMESPACE_END
