// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Which code works on a tensor's memory: chosen by (backend, scalar) at compile time.
#pragma once

#include "dropbp/base/config.hpp"

DROPBP_NAMESPACE_BEGIN

/// Host memory.
struct Cpu {};
/// Device memory of a CUDA card.
struct Cuda {};

namespace detail {
template <class...>
inline constexpr bool always_false = false;
}

/// The kernels for contiguous memory of one backend and scalar type. A specialisation offers, for n
/// elements,
///   accumulate(y, x, n)         y[i] += x[i]
///   scale(y, factor, n)         y[i] *= factor; only for GradientScaling
///   squared_norm(x, n)          sum of x[i]^2, in double
///   squared_distance(x, y, n)   sum of (x[i] - y[i])^2, in double
template <class Backend, class Scalar>
struct backend_kernels {
  using are_missing = void;  ///< only here: there are none

  // The error waits for a call: a tensor that brings its own accumulate may have memory that has no
  // kernels.
  /// y[i] += x[i]; here an error that says what to include.
  template <class... Args>
  static void accumulate(const Args&...) {
    require_kernels<Args...>();
  }
  /// y[i] *= factor; here an error that says what to include.
  template <class... Args>
  static void scale(const Args&...) {
    require_kernels<Args...>();
  }
  /// sum of x[i]^2; here an error that says what to include.
  template <class... Args>
  static double squared_norm(const Args&...) {
    return require_kernels<Args...>();
  }
  /// sum of (x[i] - y[i])^2; here an error that says what to include.
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
