// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Every kernel of the CUDA backend for one scalar, which the command line defines as SCALAR.
#include "dropbp/dropbp.cuh"

DROPBP_INSTANTIATE_CUDA(SCALAR)
