// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The kernels that llmc_style.cu calls: the only file of it in C++20.
#include <dropbp/backend/cuda/device.cuh>
#include <dropbp/kernels/cuda/raw_kernels.hpp>

DROPBP_INSTANTIATE_RAW_CUDA(float)
DROPBP_INSTANTIATE_RAW_CUDA(__nv_bfloat16)
