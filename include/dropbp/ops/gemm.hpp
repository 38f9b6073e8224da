// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The three matrix products of a linear map and its backward pass. Names as in BLAS: n is an
// operand as stored, t a transposed operand.
#pragma once

#include <string>
#include <type_traits>

#include "dropbp/kernels/cpu/gemm.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {
namespace detail {

/// Throws std::invalid_argument if the shapes of C, A and B do not fit.
template <class C, class AB>
void require_product(bool a_transposed, bool b_transposed, const C& c, const AB& a, const AB& b) {
  const Index rows = a_transposed ? a.columns : a.rows, depth = a_transposed ? a.rows : a.columns;
  const Index columns = b_transposed ? b.rows : b.columns,
              depth_of_b = b_transposed ? b.columns : b.rows;
  if (c.rows != rows || c.columns != columns || depth != depth_of_b)
    throw_invalid(std::string("a product ") +
                      (a_transposed   ? "A^T B"
                       : b_transposed ? "A B^T"
                                      : "A B") +
                      " needs sizes that fit together",
                  "C " + shape_text(c.rows, c.columns) + ", A " + shape_text(a.rows, a.columns) +
                      ", B " + shape_text(b.rows, b.columns) + " were given",
                  "check the shapes of the operands");
}

template <class T, class Backend>
void gemm(GemmLayout layout, MatrixView<T, Backend> c, MatrixView<const T, Backend> a,
          MatrixView<const T, Backend> b, Accumulate mode) {
  require_product(layout == GemmLayout::tn, layout == GemmLayout::nt, c, a, b);
  kernels<op::gemm, T, Backend>::run(layout, c, a, b, mode);
}

}  // namespace detail

/// C [m, n] = or += A [m, k] B^T, with B [n, k]: the forward pass of a linear map, y = x W^T.
///
/// For all three products: C must not overlap A or B. The bits do not depend on the number of
/// threads. With the library's own CPU engine, the bits of an element also do not depend on m, n or
/// its position. In float and double they do not depend on the width of the machine's vectors
/// either, only on whether it fuses multiply and add; in BFloat16 they depend on the
/// InstructionSet. Sums of BFloat16 are in float and are rounded once. Throws
/// std::invalid_argument if the shapes do not fit.
template <class T, class Backend = Cpu>
void gemm_nt(MatrixView<T, Backend> c, std::type_identity_t<MatrixView<const T, Backend>> a,
             std::type_identity_t<MatrixView<const T, Backend>> b,
             Accumulate mode = Accumulate::overwrite) {
  detail::gemm<T>(GemmLayout::nt, c, a, b, mode);
}

/// C [m, n] = or += A [m, k] B [k, n]: the gradient of a linear map's input, dx = dy W. See
/// gemm_nt.
template <class T, class Backend = Cpu>
void gemm_nn(MatrixView<T, Backend> c, std::type_identity_t<MatrixView<const T, Backend>> a,
             std::type_identity_t<MatrixView<const T, Backend>> b,
             Accumulate mode = Accumulate::overwrite) {
  detail::gemm<T>(GemmLayout::nn, c, a, b, mode);
}

/// C [m, n] = or += A^T B, with A [k, m] and B [k, n]: the gradient of a linear map's weight, dW =
/// dy^T x. See gemm_nt.
template <class T, class Backend = Cpu>
void gemm_tn(MatrixView<T, Backend> c, std::type_identity_t<MatrixView<const T, Backend>> a,
             std::type_identity_t<MatrixView<const T, Backend>> b,
             Accumulate mode = Accumulate::overwrite) {
  detail::gemm<T>(GemmLayout::tn, c, a, b, mode);
}

}  // namespace ops
DROPBP_NAMESPACE_END
