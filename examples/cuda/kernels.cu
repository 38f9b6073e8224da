// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The only file of a program that nvcc must compile (see docs/cuda.md). This project's own programs
// use it too.
#include <dropbp/dropbp.cuh>

DROPBP_INSTANTIATE_CUDA(dropbp::BFloat16)  // one line for each scalar type
