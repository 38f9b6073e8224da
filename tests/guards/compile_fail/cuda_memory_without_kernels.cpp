// expect: dropbp: there are no kernels for this \(backend, scalar\)
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Memory of a card needs its own kernels.
#include <cstddef>
#include <type_traits>

#include "dropbp/tensor.hpp"

#ifdef DROPBP_TEST_WRONG
using Memory = dropbp::Cuda;
#else
using Memory = dropbp::Cpu;
#endif

struct Array {
  float* pointer = nullptr;
  std::size_t count = 0;
  struct dropbp_tensor_traits {
    using backend = Memory;
    static float* data(const Array& x) { return x.pointer; }
    static std::size_t size(const Array& x) { return x.count; }
  };
};

void use(Array& y, const Array& x) { dropbp::accumulate(y, x); }
