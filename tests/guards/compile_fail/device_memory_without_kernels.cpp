// expect: dropbp: there are no kernels for this \(backend, scalar\)
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Memory of another backend is never touched by the kernels of the host.
#include <cstddef>

#include "dropbp/tensor.hpp"

struct DeviceArray {
  float* pointer = nullptr;
  std::size_t count = 0;
  struct dropbp_tensor_traits {
    static float* data(DeviceArray& x) { return x.pointer; }
    static const float* data(const DeviceArray& x) { return x.pointer; }
    static std::size_t size(const DeviceArray& x) { return x.count; }
#ifdef DROPBP_TEST_WRONG
    struct OwnCard {};
    using backend = OwnCard;
#endif
  };
};

void use(DeviceArray& y, const DeviceArray& x) { dropbp::accumulate(y, x); }
