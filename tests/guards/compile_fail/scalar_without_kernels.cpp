// expect: dropbp: there are no kernels for this \(backend, scalar\)
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

#include <vector>

#include "dropbp/tensor.hpp"

#ifdef DROPBP_TEST_WRONG
using Scalar = int;
#else
using Scalar = float;
#endif

void use(std::vector<Scalar>& y, const std::vector<Scalar>& x) { dropbp::accumulate(y, x); }
