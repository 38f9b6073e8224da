// expect: dropbp: data\(\) of this tensor type must return a pointer to its elements
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Traits that hand on what the type itself calls data().
#include <cstddef>
#include <vector>

#include "dropbp/tensor.hpp"

struct Field {
  std::vector<float> storage;
  struct dropbp_tensor_traits {
#ifdef DROPBP_TEST_WRONG
    static auto& data(Field& x) { return x.storage; }
    static auto& data(const Field& x) { return x.storage; }
#else
    static auto data(Field& x) { return x.storage.data(); }
    static auto data(const Field& x) { return x.storage.data(); }
#endif
    static std::size_t size(const Field& x) { return x.storage.size(); }
  };
};

void use(Field& y, const Field& x) { dropbp::accumulate(y, x); }
