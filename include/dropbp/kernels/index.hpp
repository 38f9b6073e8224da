// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The type of sizes and positions.
#pragma once

#include <cstddef>

#include "dropbp/base/config.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// Sizes and positions. Signed, so that differences may be negative.
using Index = std::ptrdiff_t;

}  // namespace ops
DROPBP_NAMESPACE_END
