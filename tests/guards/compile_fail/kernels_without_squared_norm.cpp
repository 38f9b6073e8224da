// expect: dropbp: a norm needs squared_norm\(x, n\) in the backend_kernels
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Own kernels must have what is asked of them.
#include <cstddef>

#include "dropbp/tensor.hpp"

struct NormingCard {};

template <>
struct dropbp::backend_kernels<NormingCard, float> {
#ifndef DROPBP_TEST_WRONG
  static double squared_norm(const float* x, std::size_t n) {
    return n == 0 ? 0.0 : static_cast<double>(x[0]);
  }
#endif
};

struct Norms {
  float* pointer = nullptr;
  std::size_t count = 0;
  struct dropbp_tensor_traits {
    using backend = NormingCard;
    static float* data(const Norms& x) { return x.pointer; }
    static std::size_t size(const Norms& x) { return x.count; }
  };
};

double use(const Norms& x) { return dropbp::squared_norm(x); }
