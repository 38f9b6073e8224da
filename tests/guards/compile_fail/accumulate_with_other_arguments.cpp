// expect: dropbp: this tensor type does not know y \+= x
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Another tensor is added, not a number.
#include "dropbp/tensor.hpp"

struct Field {
  float value = 0;
  struct dropbp_tensor_traits {
#ifdef DROPBP_TEST_WRONG
    static void accumulate(Field& y, float x) { y.value += x; }
#else
    static void accumulate(Field& y, const Field& x) { y.value += x.value; }
#endif
  };
};

void use(Field& y, const Field& x) { dropbp::accumulate(y, x); }
