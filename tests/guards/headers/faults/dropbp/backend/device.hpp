// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A planted fault: CUDA in a header that any compiler sees.
#pragma once
#include <cuda_runtime.h>

#include "dropbp/backend/kernels.cuh"
