// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The scalar types of CUDA kernels.
#pragma once

#include <type_traits>

#include "dropbp/backend/scalar.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {

/// The scalar types of CUDA kernels.
template <class T>
concept Scalar = std::is_same_v<T, float> || std::is_same_v<T, BFloat16> || std::is_same_v<T, Half>;

using dropbp::from_float;
using dropbp::to_float;

namespace detail {
using dropbp::detail::bits_of;
using dropbp::detail::float_of;
}  // namespace detail

}  // namespace cuda
DROPBP_NAMESPACE_END
