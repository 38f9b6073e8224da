// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What examples/cuda/llmc_kernels.cu compiles, for the emulator.
#include "dropbp/kernels/cuda/raw_kernels.hpp"
#include "support/emulated.hpp"

DROPBP_INSTANTIATE_RAW(float, Emulated)
DROPBP_INSTANTIATE_RAW(__nv_bfloat16, Emulated)
