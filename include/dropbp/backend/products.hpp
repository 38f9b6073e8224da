// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Products of row-major matrices in a backend's memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dropbp/backend/kernels.hpp"

DROPBP_NAMESPACE_BEGIN

/// C = A B^T (A [m, k], B [n, k]), A B (B [k, n]) or A^T B (A [k, m], B [k, n]); C is [m, n].
enum class GemmLayout : std::uint8_t { nt, nn, tn };

/// Specialised for each backend whose memory the host cannot touch:
///   product(layout, m, n, k, c, ldc, a, lda, b, ldb, add)    C = or, with `add`, += the product
/// Rows lie ld elements apart, at least as many as a row has. C must not overlap A or B. Works in
/// the order of the current stream, gives the same bits each time, and throws std::invalid_argument
/// for sizes that are negative or rows that overlap.
template <class Backend, class T>
struct device_products {
  static_assert(detail::always_false<Backend>,
                "dropbp: there are no products for this (backend, scalar). For dropbp::Cuda "
                "include dropbp/backend/cuda/products.hpp; they are there for float, "
                "dropbp::BFloat16 and dropbp::Half.");
};

DROPBP_NAMESPACE_END
