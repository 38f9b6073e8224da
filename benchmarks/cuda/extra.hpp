// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What cuda_kernels measures besides the ops: the read bandwidth, and a kernel that no op of the
// library uses.
#pragma once

#include <cstddef>

namespace bench {

/// Reads `bytes` bytes (a multiple of 16) of device memory in the current CUDA stream. `sink` has
/// room for 4 bytes.
void read_everything(const void* data, std::size_t bytes, void* sink);

/// sum += branch, then y = RMSNorm(sum), in one kernel. All are [rows, columns] of float or
/// BFloat16; rstd is [rows].
template <class T>
void add_rms_norm(T* y, float* rstd, T* sum, const T* branch, const T* weight, std::ptrdiff_t rows,
                  std::ptrdiff_t columns);

}  // namespace bench
