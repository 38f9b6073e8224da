// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Eigen's dense objects as tensors: Matrix, Array, Map, Ref, Block and derived types. For Eigen 3.4
// or newer.
#pragma once

#include <concepts>
#include <cstddef>
#include <string>

#include <Eigen/Core>

#include "dropbp/tensor.hpp"

DROPBP_NAMESPACE_BEGIN
namespace detail {

template <class Derived>
Derived eigen_dense_type(const Eigen::DenseBase<Derived>&);

// Elements in memory, with any strides. An expression that is not evaluated yet (a + b) is not a
// tensor.
template <class T>
concept is_eigen_dense = requires(const T& x) { eigen_dense_type(x); } && requires {
  requires(T::Flags & Eigen::DirectAccessBit) != 0;
  requires !Eigen::NumTraits<typename T::Scalar>::IsComplex &&
               !Eigen::NumTraits<typename T::Scalar>::IsInteger;
};

// Excludes Map<const ...> and other read-only types.
template <class T>
concept is_writable_eigen = (T::Flags & Eigen::LvalueBit) != 0;

}  // namespace detail

/// Throws std::invalid_argument if two shapes differ at run time. Norms are summed in double. Only
/// clone allocates: it copies the elements of a view to a matrix.
template <detail::is_eigen_dense T>
struct tensor_traits<T> {
  using Scalar = typename T::Scalar;

  static void accumulate(T& y, const T& x)
    requires detail::is_writable_eigen<T>
  {
    require_same_shape(y, x);
    y += x;
  }

  static void scale(T& y, double factor)
    requires detail::is_writable_eigen<T>
  {
    y *= static_cast<Scalar>(factor);
  }

  static double squared_norm(const T& x) {
    if constexpr (std::floating_point<Scalar>)
      if (is_contiguous(x)) return backend_kernels<Cpu, Scalar>::squared_norm(x.data(), size(x));
    return x.matrix().template cast<double>().squaredNorm();
  }

  /// ||x - y||^2, in double. x may be a result of clone.
  template <class Other>
  static double squared_distance(const Other& x, const T& y) {
    require_same_shape(x, y);
    if constexpr (std::floating_point<Scalar> && bool{T::IsRowMajor} == bool{Other::IsRowMajor})
      if (tensor_traits<Other>::is_contiguous(x) && is_contiguous(y))
        return backend_kernels<Cpu, Scalar>::squared_distance(x.data(), y.data(), size(y));
    return (x.matrix().template cast<double>() - y.matrix().template cast<double>()).squaredNorm();
  }

  static typename T::PlainObject clone(const T& x) { return x; }

  /// Whether the elements are contiguous in T's storage order.
  static bool is_contiguous(const T& x) {
    return x.innerStride() == 1 && (x.outerSize() <= 1 || x.outerStride() == x.innerSize());
  }

 private:
  static std::size_t size(const T& x) { return static_cast<std::size_t>(x.size()); }

  template <class Y, class X>
  static void require_same_shape(const Y& y, const X& x) {
    if (y.rows() != x.rows() || y.cols() != x.cols())
      detail::throw_invalid("both tensors of a sum or difference must have the same shape",
                            "one is " + shape(y) + " and the other " + shape(x),
                            "let the branch return a tensor of the shape of its input");
  }

  template <class X>
  static std::string shape(const X& x) {
    return std::to_string(x.rows()) + " x " + std::to_string(x.cols());
  }
};

DROPBP_NAMESPACE_END
