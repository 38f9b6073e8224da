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
  T* data = nullptr;
  Index rows = 0;
  Index columns = 0;
  Index stride = 0;

  MatrixView() = default;
  MatrixView(T* first, Index row_count, Index column_count, Index row_stride) noexcept
      : data(first), rows(row_count), columns(column_count), stride(row_stride) {}
  MatrixView(T* first, Index row_count, Index column_count) noexcept
      : MatrixView(first, row_count, column_count, column_count) {}

  operator MatrixView<const T>() const noexcept  // NOLINT: adds const, as a pointer does
    requires(!std::is_const_v<T>)
  {
    return {data, rows, columns, stride};
  }

  T* row(Index i) const noexcept { return data + i * stride; }
  MatrixView rows_from(Index first, Index count) const noexcept { return {row(first), count, columns, stride}; }
  MatrixView columns_from(Index first, Index count) const noexcept { return {data + first, rows, count, stride}; }
};

/// A row-major matrix [rows, columns] that owns its memory; moved, never copied by accident. Not initialised.
template <class T>
class Matrix {
 public:
  Matrix() = default;
  /// From the plain heap.
  Matrix(Index rows, Index columns)
      : block_(detail::checked_bytes(rows, columns, sizeof(T))), rows_(rows), columns_(columns) {}
  Matrix(Index rows, Index columns, MemoryPool& pool)
      : block_(pool.allocate(detail::checked_bytes(rows, columns, sizeof(T)))), rows_(rows), columns_(columns) {}
  Matrix(Matrix&& other) noexcept
      : block_(std::move(other.block_)), rows_(std::exchange(other.rows_, 0)), columns_(std::exchange(other.columns_, 0)) {}
  Matrix& operator=(Matrix&& other) noexcept {
    block_ = std::move(other.block_);
    rows_ = std::exchange(other.rows_, 0);
    columns_ = std::exchange(other.columns_, 0);
    return *this;
  }

  T* data() noexcept { return static_cast<T*>(block_.data()); }
  const T* data() const noexcept { return static_cast<const T*>(block_.data()); }
  std::size_t size() const noexcept { return static_cast<std::size_t>(rows_ * columns_); }
  Index rows() const noexcept { return rows_; }
  Index columns() const noexcept { return columns_; }
  T* row(Index i) noexcept { return data() + i * columns_; }
  const T* row(Index i) const noexcept { return data() + i * columns_; }

  MatrixView<T> view() noexcept { return {data(), rows_, columns_}; }
  MatrixView<const T> view() const noexcept { return {data(), rows_, columns_}; }

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
