// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Elementwise operations on matrices of the same shape, and copies between host matrices of float
// and matrices in any memory.
#pragma once

#include <type_traits>
#include <utility>

#include "dropbp/kernels/cpu/elementwise.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// to = from.
template <class T, class Backend = Cpu>
void copy(MatrixView<T, Backend> to, std::type_identity_t<MatrixView<const T, Backend>> from) {
  kernels<op::elementwise, T, Backend>::copy(to, from);
}

/// y = 0.
template <class T, class Backend = Cpu>
void set_zero(MatrixView<T, Backend> y) {
  kernels<op::elementwise, T, Backend>::set_zero(y);
}

/// y += x.
template <class T, class Backend = Cpu>
void accumulate(MatrixView<T, Backend> y, std::type_identity_t<MatrixView<const T, Backend>> x) {
  kernels<op::elementwise, T, Backend>::accumulate(y, x);
}

/// y *= factor. The factor is rounded to Statistic<T>.
template <class T, class Backend = Cpu>
void scale(MatrixView<T, Backend> y, double factor) {
  kernels<op::elementwise, T, Backend>::scale(y, factor);
}

namespace detail {

// Calls copy(first row, rows) with as many rows at a time as are contiguous.
template <class Copy>
void for_each_piece(MatrixView<const float> host, const Copy& copy) {
  const Index rows = host.stride == host.columns ? host.rows : 1;
  for (Index i = 0; i < host.rows; i += rows) copy(i, rows);
}

}  // namespace detail

/// to = from, converted from float to T and copied to the memory of `to`. `from` may change after
/// the call.
template <class T, class Backend = Cpu>
void upload(MatrixView<T, Backend> to, MatrixView<const float> from) {
  using Kernels = kernels<op::elementwise, T, Backend>;
  if constexpr (std::is_same_v<Backend, Cpu>) {
    Kernels::convert_from(to, from);
  } else {
    Matrix<float, Backend> staged(from.rows, from.columns);
    detail::for_each_piece(from, [&](Index first, Index rows) {
      device_runtime<Backend>::copy_to_device(
          staged.row(first), from.row(first),
          static_cast<std::size_t>(rows * from.columns) * sizeof(float));
    });
    Kernels::convert_from(to, std::as_const(staged).view());
  }
}

/// to = from, converted from T to float and copied to the host. Waits for the computation of
/// `from`.
template <class T, class Backend = Cpu>
void download(MatrixView<float> to, MatrixView<T, Backend> from) {
  using Kernels = kernels<op::elementwise, std::remove_const_t<T>, Backend>;
  if constexpr (std::is_same_v<Backend, Cpu>) {
    Kernels::convert_to(to, from);
  } else {
    Matrix<float, Backend> staged(from.rows, from.columns);
    Kernels::convert_to(staged.view(), from);
    detail::for_each_piece(to, [&](Index first, Index rows) {
      device_runtime<Backend>::copy_to_host(
          to.row(first), staged.row(first),
          static_cast<std::size_t>(rows * to.columns) * sizeof(float));
    });
  }
}

}  // namespace ops
DROPBP_NAMESPACE_END
