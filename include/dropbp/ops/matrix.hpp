// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Row-major matrices: one that owns its memory and a view of rows that may lie further apart.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <utility>

#include "dropbp/ops/memory.hpp"
#include "dropbp/ops/parallel.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {
namespace detail {

using dropbp::detail::throw_invalid;

inline std::string shape_text(Index rows, Index columns) {
  return std::to_string(rows).insert(0, 1, '[').append(", ").append(std::to_string(columns)).append("]");
}

inline std::size_t checked_bytes(Index rows, Index columns, std::size_t element) {
  const bool fits = rows >= 0 && columns >= 0 &&
                    (columns == 0 || static_cast<std::size_t>(rows) <= PTRDIFF_MAX / element / static_cast<std::size_t>(columns));
  if (!fits)
    throw_invalid("a matrix needs sizes of at least 0 whose product fits the memory",
                  shape_text(rows, columns) + " was given", "check batch, sequence and the model's sizes");
  return static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns) * element;
}

}  // namespace detail

/// What a kernel does with its output: `=` or `+=`.
enum class Accumulate { overwrite, add };

/// Rows of `columns` elements each, `stride` elements apart; owns nothing. A slice of a fused buffer is a view.
template <class T>
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
  operator MatrixView<const T>() const noexcept  // NOLINT: adds const, as a pointer does
    requires(!std::is_const_v<T>)
  {
    return {data, rows, columns, stride};
  }

  T* row(Index i) const noexcept { return data + i * stride; }  ///< its first element
  /// `count` rows from `first` on.
  MatrixView rows_from(Index first, Index count) const noexcept { return {row(first), count, columns, stride}; }
  /// The same of columns.
  MatrixView columns_from(Index first, Index count) const noexcept { return {data + first, rows, count, stride}; }
};

/// A row-major matrix [rows, columns] that owns its memory; moved, never copied by accident. Not initialised.
template <class T>
class Matrix {
 public:
  Matrix() = default;  ///< [0, 0]
  /// From the plain heap.
  Matrix(Index rows, Index columns)
      : block_(detail::checked_bytes(rows, columns, sizeof(T))), rows_(rows), columns_(columns) {}
  /// From a pool. Both throw std::invalid_argument for negative sizes or too many elements.
  Matrix(Index rows, Index columns, MemoryPool& pool)
      : block_(pool.allocate(detail::checked_bytes(rows, columns, sizeof(T)))), rows_(rows), columns_(columns) {}
  /// Leaves the other one empty.
  Matrix(Matrix&& other) noexcept
      : block_(std::move(other.block_)), rows_(std::exchange(other.rows_, 0)), columns_(std::exchange(other.columns_, 0)) {}
  /// Leaves the other one empty.
  Matrix& operator=(Matrix&& other) noexcept {
    block_ = std::move(other.block_);
    rows_ = std::exchange(other.rows_, 0);
    columns_ = std::exchange(other.columns_, 0);
    return *this;
  }

  T* data() noexcept { return static_cast<T*>(block_.data()); }  ///< the first element
  const T* data() const noexcept { return static_cast<const T*>(block_.data()); }  ///< the first element
  std::size_t size() const noexcept { return static_cast<std::size_t>(rows_ * columns_); }  ///< elements
  Index rows() const noexcept { return rows_; }  ///< number of rows
  Index columns() const noexcept { return columns_; }  ///< elements of a row
  T* row(Index i) noexcept { return data() + i * columns_; }  ///< its first element
  const T* row(Index i) const noexcept { return data() + i * columns_; }  ///< its first element

  MatrixView<T> view() noexcept { return {data(), rows_, columns_}; }  ///< of all rows
  MatrixView<const T> view() const noexcept { return {data(), rows_, columns_}; }  ///< of all rows

 private:
  MemoryBlock block_;
  Index rows_ = 0;
  Index columns_ = 0;
};

/// to = from, row by row. The shapes must agree.
template <class T>
void copy(MatrixView<T> to, std::type_identity_t<MatrixView<const T>> from) {
  parallel_for(from.rows, from.columns, [&](Index i) {
    std::memcpy(to.row(i), from.row(i), static_cast<std::size_t>(from.columns) * sizeof(T));
  });
}

}  // namespace ops
DROPBP_NAMESPACE_END
