// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Compiles every kernel of the CUDA backend for one scalar type. The command line defines it as
// SCALAR.
#include "dropbp/dropbp.cuh"

DROPBP_INSTANTIATE_CUDA(SCALAR)
