// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What cuda_kernels measures the rate of reading with.
#pragma once

#include <cstddef>

namespace bench {

/// Reads all bytes, a multiple of 16, of device memory in the current stream. `sink` has room for 4 bytes.
void read_everything(const void* data, std::size_t bytes, void* sink);

}  // namespace bench
