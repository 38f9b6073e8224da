// expect: dropbp: this tensor type does not know y \*= factor
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// GradientScaling needs y *= factor.
#include "dropbp/tensor.hpp"

struct Field {
  float value = 0;
  struct dropbp_tensor_traits {
    static void accumulate(Field& y, const Field& x) { y.value += x.value; }
#ifndef DROPBP_TEST_WRONG
    static void scale(Field& y, double factor) { y.value *= static_cast<float>(factor); }
#endif
  };
};

void use(Field& y) { dropbp::scale(y, 0.5); }
