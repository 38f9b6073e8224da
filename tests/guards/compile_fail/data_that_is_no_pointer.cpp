// expect: dropbp: data\(\) of this tensor type must return a pointer to its elements
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// As in uBLAS, whose data() is the storage.
#include <cstddef>
#include <vector>

#include "dropbp/tensor.hpp"

struct Field {
  std::vector<float> storage;
#ifdef DROPBP_TEST_WRONG
  std::vector<float>& data() { return storage; }
  const std::vector<float>& data() const { return storage; }
#else
  float* data() { return storage.data(); }
  const float* data() const { return storage.data(); }
#endif
  std::size_t size() const { return storage.size(); }
};

void use(Field& y, const Field& x) { dropbp::accumulate(y, x); }
