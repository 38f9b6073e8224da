// expect: dropbp: there are no kernels for this \(backend, scalar\)
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Norms need kernels as sums do.
#include <vector>

#include "dropbp/tensor.hpp"

#ifdef DROPBP_TEST_WRONG
using Scalar = short;
#else
using Scalar = double;
#endif

double use(const std::vector<Scalar>& x) { return dropbp::squared_norm(x); }
