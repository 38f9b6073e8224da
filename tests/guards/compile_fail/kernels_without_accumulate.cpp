// expect: dropbp: y \+= x needs accumulate\(y, x, n\) in the backend_kernels
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Own kernels must have what is asked of them.
#include <cstddef>

#include "dropbp/tensor.hpp"

struct AccumulatingCard {};

template <>
struct dropbp::backend_kernels<AccumulatingCard, float> {
#ifndef DROPBP_TEST_WRONG
  static void accumulate(float* y, const float* x, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) y[i] += x[i];
  }
#endif
};

struct Halves {
  float* pointer = nullptr;
  std::size_t count = 0;
  struct dropbp_tensor_traits {
    using backend = AccumulatingCard;
    static float* data(const Halves& x) { return x.pointer; }
    static std::size_t size(const Halves& x) { return x.count; }
  };
};

void use(Halves& y, const Halves& x) { dropbp::accumulate(y, x); }
