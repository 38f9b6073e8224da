// expect: dropbp: this tensor type does not know y \+= x
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A view of constants cannot be added to.
#include <span>

#include "dropbp/tensor.hpp"

#ifdef DROPBP_TEST_WRONG
using View = std::span<const float>;
#else
using View = std::span<float>;
#endif

void use(View y, View x) { dropbp::accumulate(y, x); }
