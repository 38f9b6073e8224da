// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Squared norms of many tensors on the CPU.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "dropbp/backend/cpu/kernels.hpp"
#include "dropbp/kernels/cpu/parallel.hpp"
#include "dropbp/kernels/kernels.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// The sums have a fixed order, so the bits do not depend on the number of threads.
template <HostScalar T>
struct kernels<op::squared_norms, T, Cpu> {
  /// The squared norm of each tensor, in double; 0 for an empty tensor.
  static std::vector<double> run(std::span<const Elements<const T, Cpu>> tensors) {
    std::vector<double> norms;
    for (const std::span<const T> tensor : tensors) norms.push_back(norm_of(tensor));
    return norms;
  }

 private:
  static double norm_of(std::span<const T> tensor) {
    constexpr Index chunk = 8192, chunks_at_once = 256;
    const Index size = static_cast<Index>(tensor.size());
    double norm = 0.0;
    for (Index start = 0; start < size; start += chunk * chunks_at_once) {
      double shares[chunks_at_once];
      const Index chunks = (std::min)(chunks_at_once, (size - start + chunk - 1) / chunk);
      parallel_for(chunks, (std::min)(size, chunk), [&](Index c) {
        const Index first = start + c * chunk;
        shares[c] = backend_kernels<Cpu, T>::squared_norm(
            tensor.data() + first, static_cast<std::size_t>((std::min)(chunk, size - first)));
      });
      for (Index c = 0; c < chunks; ++c) norm += shares[c];
    }
    return norm;
  }
};

}  // namespace ops
DROPBP_NAMESPACE_END
