// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The only file of a program that needs nvcc; see docs/cuda.md. Our own programs use this one.
#include <dropbp/dropbp.cuh>

DROPBP_INSTANTIATE_CUDA(dropbp::BFloat16)  // a line for each type you compute with
