// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The kernels for a tensor's memory, selected by (backend, scalar type) at compile time.
#pragma once

#include "dropbp/base/config.hpp"

DROPBP_NAMESPACE_BEGIN

/// Backend of host memory.
struct Cpu {};
/// Backend of the memory of a CUDA device.
struct Cuda {};

namespace detail {
template <class...>
inline constexpr bool always_false = false;
}

/// The kernels for contiguous memory of one backend and scalar type. A specialisation has, for n
/// elements:
///
/// - `accumulate(y, x, n)`: y[i] += x[i]
/// - `scale(y, factor, n)`: y[i] *= factor; only for GradientScaling
/// - `squared_norm(x, n)`: sum of x[i]^2, in double
/// - `squared_distance(x, y, n)`: sum of (x[i] - y[i])^2, in double
template <class Backend, class Scalar>
struct backend_kernels {
  using are_missing = void;  ///< marks the primary template, which has no kernels

  // Each member reports the error only when it is called: a tensor with its own accumulate may lie
  // in memory that has no kernels.
  /// y[i] += x[i]. Here: a compile-time error that names the header to include.
  template <class... Args>
  static void accumulate(const Args&...) {
    require_kernels<Args...>();
  }
  /// y[i] *= factor. Here: a compile-time error that names the header to include.
  template <class... Args>
  static void scale(const Args&...) {
    require_kernels<Args...>();
  }
  /// Sum of x[i]^2. Here: a compile-time error that names the header to include.
  template <class... Args>
  static double squared_norm(const Args&...) {
    return require_kernels<Args...>();
  }
  /// Sum of (x[i] - y[i])^2. Here: a compile-time error that names the header to include.
  template <class... Args>
  static double squared_distance(const Args&...) {
    return require_kernels<Args...>();
  }

 private:
  template <class... Args>
  static constexpr double require_kernels() {
    static_assert(
        detail::always_false<Args...>,
        "dropbp: there are no kernels for this (backend, scalar). Host tensors of float or double "
        "need nothing; for dropbp::Cuda include dropbp/kernels/cuda.hpp; for another scalar or "
        "other "
        "memory specialise dropbp::backend_kernels<Backend, Scalar>, or give the tensor's "
        "tensor_traits its own accumulate, squared_norm and squared_distance.");
    return 0.0;
  }
};

DROPBP_NAMESPACE_END
