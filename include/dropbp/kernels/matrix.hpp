// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Row-major matrices: Matrix owns its memory; MatrixView refers to rows, which may have gaps
// between them.
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

/// How a kernel writes its output: `=` or `+=`.
enum class Accumulate { overwrite, add };

/// The type of statistics for tensors of T (scales of norms, log-sum-exps, moments of an
/// optimizer): T, or float if T is narrower than float.
template <class T>
using Statistic = std::conditional_t<std::is_floating_point_v<T>, T, float>;

/// A view of `rows` rows of `columns` elements; neighbouring rows begin `stride` elements apart.
/// Does not own the memory. A slice of a fused buffer is a view.
template <class T, class Backend = Cpu>
struct MatrixView {
  T* data = nullptr;  ///< the first element
  Index rows = 0;     ///< number of rows
  Index columns = 0;  ///< elements per row
  Index stride = 0;   ///< elements from the start of a row to the start of the next

  /// An empty view.
  MatrixView() = default;
  /// Rows that begin `row_stride` elements apart.
  MatrixView(T* first, Index row_count, Index column_count, Index row_stride) noexcept
      : data(first), rows(row_count), columns(column_count), stride(row_stride) {}
  /// Rows without gaps between them.
  MatrixView(T* first, Index row_count, Index column_count) noexcept
      : MatrixView(first, row_count, column_count, column_count) {}

  /// The same rows, read-only.
  template <class U>
    requires(std::is_same_v<U, const T> && !std::is_const_v<T>)
  operator MatrixView<U, Backend>() const noexcept {  // NOLINT: implicit, as it only adds const
    return {data, rows, columns, stride};
  }

  T* row(Index i) const noexcept { return data + i * stride; }  ///< first element of row i
  /// `count` rows from row `first` on.
  MatrixView rows_from(Index first, Index count) const noexcept {
    return {row(first), count, columns, stride};
  }
  /// `count` columns from column `first` on.
  MatrixView columns_from(Index first, Index count) const noexcept {
    return {data + first, rows, count, stride};
  }
};

/// Contiguous elements in device memory, which the host cannot access. The library uses it where it
/// uses std::span for host memory.
template <class T, DeviceBackend Backend>
class DeviceSpan {
 public:
  DeviceSpan() = default;  ///< empty
  DeviceSpan(T* first, std::size_t count) noexcept
      : data_(first), size_(count) {}  ///< of `count` elements

  T* data() const noexcept { return data_; }           ///< the first element
  std::size_t size() const noexcept { return size_; }  ///< number of elements

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

/// Contiguous elements in the backend's memory: std::span for host memory, else DeviceSpan.
template <class T, class Backend>
using Elements = typename detail::span_of<T, Backend>::type;

/// A row-major matrix [rows, columns] that owns its memory. New elements are not initialised. Can
/// be moved; to copy it, call clone_of.
template <class T, class Backend = Cpu>
class Matrix {
 public:
  Matrix() = default;  ///< [0, 0]
  /// Takes memory from the system. Throws std::invalid_argument for a negative size or too many
  /// elements.
  Matrix(Index rows, Index columns)
      : block_(detail::checked_bytes(rows, columns, sizeof(T))), rows_(rows), columns_(columns) {}
  /// Takes memory from a pool. Throws std::invalid_argument for a negative size or too many
  /// elements.
  Matrix(Index rows, Index columns, BasicMemoryPool<Backend>& pool)
      : block_(pool.allocate(detail::checked_bytes(rows, columns, sizeof(T)))),
        rows_(rows),
        columns_(columns) {}
  /// Leaves `other` empty.
  Matrix(Matrix&& other) noexcept
      : block_(std::move(other.block_)),
        rows_(std::exchange(other.rows_, 0)),
        columns_(std::exchange(other.columns_, 0)) {}
  /// Leaves `other` empty.
  Matrix& operator=(Matrix&& other) noexcept {
    block_ = std::move(other.block_);
    rows_ = std::exchange(other.rows_, 0);
    columns_ = std::exchange(other.columns_, 0);
    return *this;
  }

  T* data() noexcept { return static_cast<T*>(block_.data()); }  ///< the first element
  /// The first element.
  const T* data() const noexcept { return static_cast<const T*>(block_.data()); }
  /// Number of elements.
  std::size_t size() const noexcept { return static_cast<std::size_t>(rows_ * columns_); }
  Index rows() const noexcept { return rows_; }               ///< number of rows
  Index columns() const noexcept { return columns_; }         ///< elements per row
  T* row(Index i) noexcept { return data() + i * columns_; }  ///< first element of row i
  const T* row(Index i) const noexcept { return data() + i * columns_; }  ///< start of row i

  MatrixView<T, Backend> view() noexcept { return {data(), rows_, columns_}; }  ///< of all rows
  /// A read-only view of all rows.
  MatrixView<const T, Backend> view() const noexcept { return {data(), rows_, columns_}; }

 private:
  BasicMemoryBlock<Backend> block_;
  Index rows_ = 0;
  Index columns_ = 0;
};

/// Moves a host matrix to the memory of a backend: for Cpu the matrix itself, else a copy on the
/// device.
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

/// A copy with memory of its own.
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
  static DeferredNumber deferred_squared_norm(const Tensor& x)
    requires requires { Kernels::deferred_squared_norm(x.data(), x.size()); }
  {
    return Kernels::deferred_squared_norm(x.data(), x.size());
  }
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
