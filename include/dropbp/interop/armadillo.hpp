// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Armadillo's Mat, Col, Row and Cube of float or double as tensors. Needs no BLAS.
#pragma once

#include <concepts>
#include <cstddef>
#include <string>

#include <armadillo>

#include "dropbp/tensor.hpp"

DROPBP_NAMESPACE_BEGIN
namespace detail {

template <std::floating_point Scalar>
void armadillo_tensor(const arma::Mat<Scalar>&);
template <std::floating_point Scalar>
void armadillo_tensor(const arma::Cube<Scalar>&);

// Excludes types that convert to a matrix, such as a product that is not evaluated yet.
template <class T>
concept is_armadillo_tensor = requires(const T& x) {
  armadillo_tensor(x);
  x.memptr();
};

}  // namespace detail

/// Contiguous memory. Sums and differences throw std::invalid_argument if the shapes differ.
template <detail::is_armadillo_tensor T>
struct tensor_traits<T> {
  static auto data(T& x) { return x.memptr(); }
  static auto data(const T& x) { return x.memptr(); }
  static std::size_t size(const T& x) { return static_cast<std::size_t>(x.n_elem); }

  static void accumulate(T& y, const T& x) {
    if (!same_shape(y, x))
      detail::throw_invalid("both tensors of a sum must have the same shape",
                            "one is " + shape(y) + " and the other " + shape(x),
                            "let the branch return a tensor of the shape of its input");
    backend_kernels<Cpu, typename T::elem_type>::accumulate(data(y), data(x), size(y));
  }

 private:
  static constexpr bool is_cube = requires(const T& x) { x.n_slices; };

  static bool same_shape(const T& y, const T& x) {
    if constexpr (is_cube)
      if (y.n_slices != x.n_slices) return false;
    return y.n_rows == x.n_rows && y.n_cols == x.n_cols;
  }

  static std::string shape(const T& x) {
    std::string text = std::to_string(x.n_rows) + " x " + std::to_string(x.n_cols);
    if constexpr (is_cube) text += " x " + std::to_string(x.n_slices);
    return text;
  }
};

DROPBP_NAMESPACE_END
