// expect: dropbp: this tensor type does not know its norm
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A norm is returned as a number.
#include "dropbp/tensor.hpp"

struct Field {
  float value = 0;
  struct dropbp_tensor_traits {
#ifdef DROPBP_TEST_WRONG
    static Field squared_norm(const Field& x) { return {x.value * x.value}; }
#else
    static double squared_norm(const Field& x) { return static_cast<double>(x.value * x.value); }
#endif
  };
};

double use(const Field& x) { return dropbp::squared_norm(x); }
